//! What the router asked for, token by token: recorded by a session, replayed against policies and cache sizes.
//!
//! A trace is text. Its first line describes the model, then there is one line for each token and layer, layers in
//! order:
//!
//! ```text
//! flashflood-experts 1 layers=2 experts=32 top_k=4 slot_bytes=26112
//! 0 0 0 7 3 21 30
//! 0 0 1 2 9 11 5
//! ```
//!
//! Layers that differ have their numbers one after the other: `layers=2 experts=32,8 top_k=4,2`.
//!
//! The numbers of a line are the step, the token's place in the trace, the layer, and the `top_k` experts. Tokens of
//! one step went through a layer together: a prompt's chunk asks for each expert once. Traces of one model may stand
//! in one file one after the other, each with its first line.

use std::io::{self, BufRead, Write};

/// The first words of a trace; the number is the version of the format.
const MAGIC: &str = "flashflood-experts 1";

/// Which experts the tokens of a text chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Shape of the model.
    pub shape: TraceShape,
    /// Steps in order, each with the experts that its tokens chose: per layer `[tokens, top_k]`.
    pub steps: Vec<Vec<Vec<u32>>>,
}

/// The model of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceShape {
    /// Layers with experts.
    pub layers: Vec<TraceLayer>,
    /// Bytes of a slot that holds an expert.
    pub slot_bytes: usize,
}

/// One layer with experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceLayer {
    /// Its experts.
    pub experts: usize,
    /// Those that a token chooses.
    pub top_k: usize,
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The system could not read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not what it should be.
    #[error("line {line}: expected {expected}, found '{found}'")]
    Line {
        /// Line, counted from 1.
        line: usize,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The end came too early.
    #[error("the trace ends after line {line}: expected {expected}")]
    End {
        /// Lines read.
        line: usize,
        /// What should have come.
        expected: String,
    },
}

impl Trace {
    /// A trace of no tokens.
    pub(crate) fn new(shape: TraceShape) -> Self {
        Trace { shape, steps: Vec::new() }
    }

    /// Tokens of all steps.
    pub fn tokens(&self) -> usize {
        self.steps.iter().map(|step| self.step_tokens(step)).sum()
    }

    fn step_tokens(&self, step: &[Vec<u32>]) -> usize {
        let first = step.first().zip(self.shape.layers.first());
        first.map_or(0, |(ids, layer)| ids.len() / layer.top_k.max(1))
    }

    /// Writes the trace as text.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let TraceShape { layers, slot_bytes } = &self.shape;
        let experts = one_or_all(layers.iter().map(|layer| layer.experts));
        let top_k = one_or_all(layers.iter().map(|layer| layer.top_k));
        writeln!(out, "{MAGIC} layers={} experts={experts} top_k={top_k} slot_bytes={slot_bytes}", layers.len())?;
        let mut token = 0;
        for (number, step) in self.steps.iter().enumerate() {
            for row in 0..self.step_tokens(step) {
                for (layer, (ids, TraceLayer { top_k, .. })) in step.iter().zip(layers).enumerate() {
                    write!(out, "{number} {token} {layer}")?;
                    for id in &ids[row * top_k..(row + 1) * top_k] {
                        write!(out, " {id}")?;
                    }
                    writeln!(out)?;
                }
                token += 1;
            }
        }
        Ok(())
    }

    /// Reads what [`Trace::write`] wrote, once or several times.
    pub fn read(input: &mut dyn BufRead) -> Result<Trace, TraceError> {
        let mut trace: Option<Trace> = None;
        let mut number = 0;
        // (step, token, layer) of the line before, of this part
        let mut before: Option<[usize; 3]> = None;
        let mut text = String::new();
        loop {
            text.clear();
            let ended = input.read_line(&mut text)? == 0;
            let line = text.trim_end();
            let starts = line.starts_with(MAGIC);
            // a token is whole where a part ends
            if let (Some(trace), Some([.., layer])) = (&trace, before)
                && (ended || starts)
                && layer + 1 < trace.shape.layers.len()
            {
                return Err(TraceError::End { line: number, expected: format!("layer {} of the token", layer + 1) });
            }
            if ended {
                let expected = || format!("a first line '{MAGIC} layers=…'");
                return trace.ok_or_else(|| TraceError::End { line: number, expected: expected() });
            }
            number += 1;
            let wrong = |expected: String| TraceError::Line { line: number, expected, found: line.to_owned() };
            if starts {
                let shape = TraceShape::parse(line).ok_or_else(|| {
                    wrong(format!("'{MAGIC} layers=L experts=E top_k=K slot_bytes=B', none of them 0 and K at most E"))
                })?;
                let known = &trace.get_or_insert_with(|| Trace::new(shape.clone())).shape;
                if shape != *known {
                    return Err(wrong("the same model as at the start of the file".to_owned()));
                }
                before = None;
                continue;
            }
            let trace = trace.as_mut().ok_or_else(|| wrong(format!("'{MAGIC} layers=…' first")))?;
            let (place, ids) = trace.shape.parse_ids(line).map_err(wrong)?;
            trace.push_line(before, place, &ids).map_err(wrong)?;
            before = Some(place);
        }
    }

    /// Adds a line's experts where they belong, or says which line should have come.
    fn push_line(&mut self, before: Option<[usize; 3]>, place: [usize; 3], ids: &[u32]) -> Result<(), String> {
        let layers = self.shape.layers.len();
        let in_order = match before {
            None => place == [0, 0, 0],
            Some([step, token, layer]) if layer + 1 < layers => place == [step, token, layer + 1],
            Some([step, token, _]) => place == [step, token + 1, 0] || place == [step + 1, token + 1, 0],
        };
        if !in_order {
            return Err(match before {
                None => "step 0, token 0, layer 0".to_owned(),
                Some([step, token, layer]) => format!("what follows step {step}, token {token}, layer {layer}"),
            });
        }
        if place[2] == 0 && before.is_none_or(|before| before[0] != place[0]) {
            self.steps.push(vec![Vec::new(); layers]);
        }
        let step = self.steps.last_mut().expect("the first line of a part starts a step");
        step[place[2]].extend_from_slice(ids);
        Ok(())
    }
}

/// One number where all are the same, else all of them.
fn one_or_all(numbers: impl Iterator<Item = usize>) -> String {
    let mut all: Vec<String> = numbers.map(|number| number.to_string()).collect();
    if all.windows(2).all(|pair| pair[0] == pair[1]) {
        all.truncate(1);
    }
    all.join(",")
}

impl TraceShape {
    /// Layers that are all alike.
    pub fn even(layers: usize, experts: usize, top_k: usize, slot_bytes: usize) -> Self {
        TraceShape { layers: vec![TraceLayer { experts, top_k }; layers], slot_bytes }
    }

    /// The most experts of a layer.
    pub fn most_experts(&self) -> usize {
        self.layers.iter().map(|layer| layer.experts).max().unwrap_or(0)
    }

    /// The most experts that a token chooses in a layer.
    pub fn most_of_a_token(&self) -> usize {
        self.layers.iter().map(|layer| layer.top_k).max().unwrap_or(0)
    }

    fn parse(line: &str) -> Option<TraceShape> {
        let mut words = line.strip_prefix(MAGIC)?.split_whitespace();
        let mut values = |name: &str| -> Option<Vec<usize>> {
            let text = words.next()?.strip_prefix(name)?.strip_prefix('=')?;
            text.split(',').map(|number| number.parse().ok()).collect()
        };
        let (layers, experts, top_k, slot_bytes) =
            (values("layers")?, values("experts")?, values("top_k")?, values("slot_bytes")?);
        let (&[layers], &[slot_bytes]) = (layers.as_slice(), slot_bytes.as_slice()) else { return None };
        // far beyond any model; a damaged file must not take all memory
        if layers == 0 || layers > 1 << 16 || slot_bytes == 0 || words.next().is_some() {
            return None;
        }
        let of = |numbers: &[usize], layer: usize| match numbers {
            [one] => Some(*one),
            all if all.len() == layers => Some(all[layer]),
            _ => None,
        };
        let layer = |n| Some(TraceLayer { experts: of(&experts, n)?, top_k: of(&top_k, n)? });
        let layers: Vec<TraceLayer> = (0..layers).map(layer).collect::<Option<_>>()?;
        let sound = layers.iter().all(|layer| (1..=layer.experts).contains(&layer.top_k));
        sound.then_some(TraceShape { layers, slot_bytes })
    }

    /// Step, token and layer of a line, and its experts.
    fn parse_ids(&self, line: &str) -> Result<([usize; 3], Vec<u32>), String> {
        let expected = |layer: TraceLayer| {
            format!("step, token, layer and {} distinct experts below {}", layer.top_k, layer.experts)
        };
        let mut words = line.split(' ');
        let mut place = [0; 3];
        for number in &mut place {
            *number = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| expected(self.layers[0]))?;
        }
        // a layer that the model does not have is out of order
        let layer = self.layers.get(place[2]).copied().unwrap_or(self.layers[0]);
        let expected = || expected(layer);
        let ids: Vec<u32> = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| expected())?;
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let sound = ids.len() == layer.top_k && sorted.len() == ids.len();
        if !sound || sorted.last().is_some_and(|&id| id as usize >= layer.experts) {
            return Err(expected());
        }
        Ok((place, ids))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn shape() -> TraceShape {
        TraceShape::even(2, 9, 2, 64)
    }

    fn text(trace: &Trace) -> String {
        let mut out = Vec::new();
        trace.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn read(text: &str) -> Result<Trace, TraceError> {
        Trace::read(&mut text.as_bytes())
    }

    #[test]
    fn the_text_is_as_documented() {
        let steps = vec![vec![vec![1, 2, 3, 4], vec![5, 6, 7, 8]], vec![vec![0, 8], vec![8, 0]]];
        let trace = Trace { shape: shape(), steps };
        let lines = [
            "flashflood-experts 1 layers=2 experts=9 top_k=2 slot_bytes=64",
            "0 0 0 1 2",
            "0 0 1 5 6",
            "0 1 0 3 4",
            "0 1 1 7 8",
            "1 2 0 0 8",
            "1 2 1 8 0\n",
        ];
        assert_eq!(text(&trace), lines.join("\n"));
        assert_eq!(trace.tokens(), 3);
        let twice = read(&text(&trace).repeat(2)).unwrap();
        assert_eq!(twice.steps, [&trace.steps[..], &trace.steps[..]].concat());
    }

    #[test]
    fn layers_may_differ() {
        let layers = vec![TraceLayer { experts: 32, top_k: 2 }, TraceLayer { experts: 8, top_k: 1 }];
        let shape = TraceShape { layers, slot_bytes: 64 };
        let trace = Trace { shape, steps: vec![vec![vec![30, 2, 1, 31], vec![7, 0]]] };
        let first = "flashflood-experts 1 layers=2 experts=32,8 top_k=2,1 slot_bytes=64\n";
        assert_eq!(text(&trace), format!("{first}0 0 0 30 2\n0 0 1 7\n0 1 0 1 31\n0 1 1 0\n"));
        assert_eq!(read(&text(&trace)).unwrap(), trace);
        let error = read(&format!("{first}0 0 0 30 2\n0 0 1 8\n")).unwrap_err().to_string();
        assert_eq!(error, "line 3: expected step, token, layer and 1 distinct experts below 8, found '0 0 1 8'");
        assert!(read(&first.replace("=32,8 ", "=32,8,8 ")).is_err());
    }

    #[test]
    fn what_is_no_trace_is_refused_with_the_line() {
        let first = "flashflood-experts 1 layers=2 experts=9 top_k=2 slot_bytes=64\n";
        for (text, message) in [
            ("", "the trace ends after line 0: expected a first line 'flashflood-experts 1 layers=…'"),
            ("0 0 0 1 2\n", "line 1: expected 'flashflood-experts 1 layers=…' first, found '0 0 0 1 2'"),
            (
                "flashflood-experts 1 layers=2 experts=9 top_k=10 slot_bytes=64",
                "line 1: expected 'flashflood-experts 1",
            ),
            ("{first}0 0 0 1\n", "line 2: expected step, token, layer and 2 distinct experts below 9, found '0 0 0 1'"),
            ("{first}0 0 0 1 9\n", "line 2: expected step, token, layer and 2 distinct experts below 9, found"),
            ("{first}0 0 0 1 1\n", "line 2: expected step, token, layer and 2 distinct experts below 9, found"),
            ("{first}0 0 1 1 2\n", "line 2: expected step 0, token 0, layer 0, found '0 0 1 1 2'"),
            ("{first}0 0 0 1 2\n", "the trace ends after line 2: expected layer 1 of the token"),
            ("{first}0 0 0 1 2\n{first}", "the trace ends after line 2: expected layer 1 of the token"),
            ("{first}0 0 0 1 2\n0 0 1 1 2\n2 1 0 1 2\n", "line 4: expected what follows step 0, token 0, layer 1"),
            (
                "{first}flashflood-experts 1 layers=3 experts=9 top_k=2 slot_bytes=64\n",
                "line 2: expected the same model as at the start of the file",
            ),
        ] {
            let error = read(&text.replace("{first}", first)).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            steps in prop::collection::vec((1usize..4, 0u32..9), 0..6),
        ) {
            let step = |&(tokens, seed): &(usize, u32)| {
                let ids = |layer: u32| (0..tokens as u32).flat_map(|t| {
                    let first = (seed + t * 5 + layer) % 9;
                    [first, (first + 1) % 9]
                }).collect();
                vec![ids(0), ids(1)]
            };
            let trace = Trace { shape: shape(), steps: steps.iter().map(step).collect() };
            prop_assert_eq!(read(&text(&trace)).unwrap(), trace);
        }

        #[test]
        fn no_text_panics(lines in prop::collection::vec("[0-9 ]{0,12}|flashflood-experts 1 layers=2 experts=9 top_k=2 slot_bytes=64|0 0 [01] [0-9] [0-9]", 0..6)) {
            let _ = read(&lines.join("\n"));
        }
    }
}
