//! Ends a text at the first of a user's stop strings, wherever the tokens happen to cut it.

/// Watches streamed text for stop strings and holds back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    /// The end of the text so far that is also the beginning of a stop string.
    held: String,
    stopped: bool,
}

/// What [`StopStrings::push`] makes of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StopCheck {
    /// Text to show now; it ends before the stop string.
    pub text: String,
    /// Which stop string (its index among those given) ended the text, if one did.
    pub stop: Option<usize>,
}

impl StopStrings {
    /// Watches for any of `stops`. An empty string never stops a text.
    pub(crate) fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { stops: stops.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Takes the next piece of text and gives what may be shown.
    ///
    /// The stop string whose last character comes first wins, and of those that end together the longest, so that the
    /// outcome does not depend on how the text is cut into pieces. After a stop nothing more is given.
    pub(crate) fn push(&mut self, piece: &str) -> StopCheck {
        if self.stopped {
            return StopCheck::default();
        }
        self.held.push_str(piece);
        let first = self
            .stops
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.is_empty())
            .filter_map(|(index, stop)| {
                let start = self.held.find(stop.as_str())?;
                Some((start + stop.len(), start, index))
            })
            .min();
        if let Some((_, start, index)) = first {
            self.stopped = true;
            self.held.truncate(start);
            return StopCheck { text: std::mem::take(&mut self.held), stop: Some(index) };
        }
        let tail = self.held.split_off(self.held.len() - self.tail_length());
        StopCheck { text: std::mem::replace(&mut self.held, tail), stop: None }
    }

    /// Ends the text: what was held back and turned out not to be a stop string. Ready for another text afterwards.
    pub(crate) fn finish(&mut self) -> String {
        self.stopped = false;
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of `held` that a stop string may begin with.
    fn tail_length(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = (self.held.len() + 1).saturating_sub(longest);
        self.held
            .char_indices()
            .rev()
            .map(|(start, _)| start)
            .take_while(|&start| start >= earliest)
            .filter(|&start| {
                let tail = &self.held[start..];
                self.stops.iter().any(|stop| stop.starts_with(tail))
            })
            .last()
            .map_or(0, |start| self.held.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stop_string_split_over_pieces() {
        let mut stops = StopStrings::new(["</s>", "\n\nUser"]);
        assert_eq!(stops.push("Hello <").text, "Hello ");
        assert_eq!(stops.push("/").text, "");
        assert_eq!(stops.push("b>\n").text, "</b>");
        assert_eq!(stops.push("\nUs").text, "");
        let check = stops.push("er: hi");
        assert_eq!((check.text.as_str(), check.stop), ("", Some(1)));
        assert_eq!(stops.push("more"), StopCheck::default());
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn what_was_held_is_given_at_the_end() {
        let mut stops = StopStrings::new(["é!", ""]);
        assert_eq!(stops.push("café").text, "caf");
        assert_eq!(stops.finish(), "é");
        assert_eq!(stops.push("abc").text, "abc");
    }

    proptest! {
        /// The text before the stop is the same for every way to cut it, and nothing is lost or shown too early.
        #[test]
        fn pieces_do_not_matter(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 0..3), cuts in prop::collection::vec(0usize..25, 0..6)) {
            let ends: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            let expected = ends.iter().find_map(|&end| {
                stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(|stop| end - stop.len()).min()
            });
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| ends[c.min(ends.len() - 1)]).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut watch = StopStrings::new(stops.clone());
            let mut shown = String::new();
            let mut stopped = false;
            for pair in cuts.windows(2) {
                let check = watch.push(&text[pair[0]..pair[1]]);
                shown.push_str(&check.text);
                stopped |= check.stop.is_some();
            }
            shown.push_str(&watch.finish());
            prop_assert_eq!(stopped, expected.is_some());
            prop_assert_eq!(shown.as_str(), &text[..expected.unwrap_or(text.len())]);
        }
    }
}
