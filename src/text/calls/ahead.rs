//! What can be said of a text whose end may not have come yet. Every decision about calls is made of these, so that none
//! depends on where tokens cut the text.

/// The marks of calls, without the `>` at their end, which models forget.
pub(super) const CALL: &str = "<tool_call";
pub(super) const WHOLE_CALL: &str = "<tool_call>";
pub(super) const END_CALL: &str = "</tool_call";
pub(super) const FUNCTION: &str = "<function=";
pub(super) const END_FUNCTION: &str = "</function";
pub(super) const PARAMETER: &str = "<parameter=";
pub(super) const END_PARAMETER: &str = "</parameter";

/// Longest name of a function or a parameter, in bytes.
const LONGEST_NAME: usize = 128;

/// An answer about a text that may go on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen<T> {
    Yes(T),
    No,
    /// What comes next decides.
    Unknown,
}

impl<T> Seen<T> {
    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Seen::Yes(found) => Seen::Yes(f(found)),
            Seen::No => Seen::No,
            Seen::Unknown => Seen::Unknown,
        }
    }

    /// This answer, or where it is no the other.
    pub(super) fn or(self, other: impl FnOnce() -> Seen<T>) -> Seen<T> {
        match self {
            Seen::No => other(),
            known => known,
        }
    }
}

impl Seen<()> {
    pub(super) fn of(is_so: bool) -> Self {
        if is_so { Seen::Yes(()) } else { Seen::No }
    }
}

/// The text from some place on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead<'a> {
    pub(crate) text: &'a str,
    /// Whether nothing comes behind it.
    pub(crate) is_whole: bool,
}

impl<'a> Ahead<'a> {
    pub(super) fn from(self, at: usize) -> Self {
        Ahead { text: &self.text[at..], ..self }
    }

    /// Behind the blanks that come first.
    pub(super) fn behind_blanks(self) -> Self {
        Ahead { text: self.text.trim_start(), ..self }
    }

    /// Where `later`, a part of this text up to its end, begins.
    pub(super) fn offset(self, later: Ahead<'_>) -> usize {
        self.text.len() - later.text.len()
    }

    /// What is said where the text is too short to decide: no if it is whole.
    pub(super) fn undecided<T>(self) -> Seen<T> {
        if self.is_whole { Seen::No } else { Seen::Unknown }
    }

    /// Whether the answer ends here.
    pub(super) fn is_end(self) -> Seen<()> {
        match (self.text.is_empty(), self.is_whole) {
            (true, true) => Seen::Yes(()),
            (true, false) => Seen::Unknown,
            (false, _) => Seen::No,
        }
    }

    /// Whether the text begins with `mark`; how long it is.
    pub(crate) fn mark(self, mark: &str) -> Seen<usize> {
        if self.text.starts_with(mark) {
            Seen::Yes(mark.len())
        } else if mark.starts_with(self.text) {
            self.undecided()
        } else {
            Seen::No
        }
    }

    /// Whether the text begins with a tag, given without its `>`, which may be missing before a line end, another tag or the
    /// end of the answer; how long it is.
    pub(super) fn tag(self, tag: &str) -> Seen<usize> {
        let Seen::Yes(length) = self.mark(tag) else { return self.mark(tag) };
        let rest = self.from(length);
        let next = rest.behind_blanks();
        let blanks = &rest.text[..rest.offset(next)];
        match next.text.chars().next() {
            Some('>') if !blanks.contains('\n') => Seen::Yes(length + blanks.len() + 1),
            Some('<') => Seen::Yes(length),
            None if self.is_whole => Seen::Yes(length),
            _ if blanks.contains('\n') => Seen::Yes(length),
            None => Seen::Unknown,
            Some(_) => Seen::No,
        }
    }

    /// The name that stands here up to its `>`, and where it ends. The `>` may be missing at the end of the line, or (where
    /// `is_known` knows the first word) before a blank; quotes around the name are not part of it.
    pub(super) fn name(self, is_known: impl Fn(&str) -> bool) -> Seen<(String, usize)> {
        let Some(end) = self.text.find(['>', '\n', '<']) else {
            return if self.text.len() > LONGEST_NAME { Seen::No } else { self.undecided() };
        };
        let raw = &self.text[..end];
        let is_closed = self.text[end..].starts_with('>');
        let name = unquoted(raw);
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Seen::No;
        }
        if name.contains(char::is_whitespace) && !is_known(name) {
            let begin = raw.len() - raw.trim_start().len();
            let word = begin + raw[begin..].find(char::is_whitespace).unwrap_or(raw.len() - begin);
            let first = unquoted(&raw[..word]);
            if is_known(first) {
                let blank = raw[word..].chars().next().map_or(0, char::len_utf8);
                return Seen::Yes((first.to_owned(), word + blank));
            }
        }
        Seen::Yes((name.to_owned(), end + usize::from(is_closed)))
    }

    /// A short text in quotes of either kind, and where it ends.
    pub(super) fn quoted(self) -> Seen<(&'a str, usize)> {
        let Some(quote) = self.text.chars().next() else { return self.undecided() };
        if quote != '"' && quote != '\'' {
            return Seen::No;
        }
        match self.text[1..].find([quote, '\n', '\\', '<']) {
            Some(end) if self.text[1 + end..].starts_with(quote) => Seen::Yes((&self.text[1..=end], end + 2)),
            Some(_) => Seen::No,
            None if self.text.len() > LONGEST_NAME => Seen::No,
            None => self.undecided(),
        }
    }
}

fn unquoted(name: &str) -> &str {
    name.trim().trim_matches(['"', '\'']).trim()
}

/// The text before a closer without the line end, and the indentation of the closer, which belong to the dialect.
pub(super) fn without_line_end(text: &str) -> &str {
    let line = text.trim_end_matches([' ', '\t']);
    match line.strip_suffix('\n') {
        Some(rest) => rest.strip_suffix('\r').unwrap_or(rest),
        None => text,
    }
}
