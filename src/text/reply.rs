//! What an answer is made of: thoughts, text and tool calls, told apart while tokens come, wherever they cut it.
//! What is neither thoughts nor a call is given as it is: nothing is lost. The marks are those of a [`Dialect`].

use serde_json::{Map, Value};

use super::dialects::{Dialect, QWEN};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ReplyPart {
    /// More of what the model thinks before it answers.
    Thinking(String),
    /// More of the answer.
    Text(String),
    /// A call of a tool, whole.
    ToolCall(ToolCall),
}

/// A function that the model wants called.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// What a result of the call refers to; empty until the call is told as an event.
    pub id: String,
    /// Name of the function.
    pub name: String,
    /// Its arguments, with the types that the function's schema gives them.
    pub arguments: Map<String, Value>,
    /// What the model wrote, with the marks around it: for a history that reads as the model wrote it.
    pub source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first character that is not blank.
    Start,
    Thinking,
    Text,
    /// Behind thoughts or a call: blanks are no text.
    Gap,
    /// Behind `<tool_call>`.
    Call,
}

/// Takes an answer apart. The default gives everything as text.
#[derive(Clone, Debug)]
pub struct ReplyParser {
    dialect: &'static Dialect,
    state: State,
    /// What cannot be told yet.
    held: String,
    /// Functions as OpenAI describes them: `{"type": "function", "function": {"name", "parameters"}}`.
    tools: Vec<Value>,
}

impl Default for ReplyParser {
    fn default() -> Self {
        ReplyParser { dialect: &QWEN, state: State::Text, held: String::new(), tools: Vec::new() }
    }
}

impl ReplyParser {
    /// For an answer to `prompt`, which may end by opening thoughts. Without `tools` calls are text.
    pub(crate) fn new(dialect: &'static Dialect, prompt: &str, tools: Vec<Value>) -> Self {
        // not anywhere in the prompt: a user may write of thoughts
        let opened = prompt.trim_end().ends_with(dialect.think);
        let state = if opened { State::Thinking } else { State::Start };
        ReplyParser { dialect, state, held: String::new(), tools }
    }

    /// Whether the answer is among its thoughts.
    pub(crate) fn is_thinking(&self) -> bool {
        self.state == State::Thinking
    }

    /// Whether the answer is within a call.
    pub(crate) fn is_calling(&self) -> bool {
        self.state == State::Call
    }

    /// How thoughts and calls are told from text.
    pub(crate) fn dialect(&self) -> &'static Dialect {
        self.dialect
    }

    /// Whether everything is text.
    pub(crate) fn is_plain(&self) -> bool {
        self.state == State::Text && !self.has_tools()
    }

    /// Takes the next piece of text and gives what is certain now.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<ReplyPart> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// Ends the answer: what was held back.
    pub(crate) fn finish(&mut self) -> Vec<ReplyPart> {
        let rest = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        match self.state {
            State::Thinking => thinking(&mut parts, &rest),
            // a call that lacks only its end is one; what there is of any other is text
            State::Call => self.push_call(&mut parts, &rest, ""),
            State::Gap => text(&mut parts, rest.trim_start()),
            State::Start if rest.trim().is_empty() => {}
            State::Start | State::Text => text(&mut parts, &rest),
        }
        self.state = State::Text;
        parts
    }

    /// Goes one step on; `false` when more must come first.
    fn step(&mut self, parts: &mut Vec<ReplyPart>) -> bool {
        let Dialect { think, end_think, call, end_call, .. } = *self.dialect;
        match self.state {
            State::Start | State::Gap => {
                let begun = self.held.trim_start();
                if self.state == State::Start && begun.starts_with(think) {
                    self.drop_held(self.held.len() - begun.len() + think.len());
                    self.state = State::Thinking;
                    return true;
                }
                let may_think = self.state == State::Start && think.starts_with(begun);
                if begun.is_empty() || may_think || (self.has_tools() && call.starts_with(begun) && begun != call) {
                    return false;
                }
                // blanks before an answer are its own, unless something stood before it
                if self.state == State::Gap {
                    self.drop_held(self.held.len() - begun.len());
                }
                self.state = State::Text;
                true
            }
            State::Thinking => {
                let end = self.held.find(end_think).map(|at| (at, end_think, State::Gap));
                let begin = self.held.find(call).filter(|_| self.has_tools()).map(|at| (at, call, State::Call));
                if let Some((at, marker, next)) = [end, begin].into_iter().flatten().min_by_key(|(at, ..)| *at) {
                    thinking(parts, self.held[..at].trim_end());
                    self.drop_held(at + marker.len());
                    self.state = next;
                    return true;
                }
                let markers: &[&str] = if self.has_tools() { &[end_think, call] } else { &[end_think] };
                let certain = certain(&self.held, markers);
                thinking(parts, &self.held[..certain]);
                self.drop_held(certain);
                false
            }
            State::Text => {
                if !self.has_tools() {
                    text(parts, &std::mem::take(&mut self.held));
                    return false;
                }
                if let Some(at) = self.held.find(call) {
                    text(parts, self.held[..at].trim_end());
                    self.drop_held(at + call.len());
                    self.state = State::Call;
                    return true;
                }
                let certain = certain(&self.held, &[call]);
                text(parts, &self.held[..certain]);
                self.drop_held(certain);
                false
            }
            State::Call => {
                let Some(at) = self.held.find(end_call) else { return false };
                let inner = self.held[..at].to_owned();
                self.drop_held(at + end_call.len());
                self.push_call(parts, &inner, end_call);
                self.state = State::Gap;
                true
            }
        }
    }

    fn drop_held(&mut self, bytes: usize) {
        self.held.drain(..bytes);
    }

    fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// A call, or the text of what is none.
    fn push_call(&self, parts: &mut Vec<ReplyPart>, inner: &str, end: &str) {
        let source = format!("{}{inner}{end}", self.dialect.call);
        match (self.dialect.read_call)(inner, &self.tools) {
            Some((name, arguments)) => {
                parts.push(ReplyPart::ToolCall(ToolCall { id: String::new(), name, arguments, source }))
            }
            None => text(parts, &source),
        }
    }
}

/// Bytes of `held` that cannot be the blanks before a marker, or its beginning.
fn certain(held: &str, markers: &[&str]) -> usize {
    let longest = markers.iter().map(|m| m.len()).max().unwrap_or(0);
    let earliest = (held.len() + 1).saturating_sub(longest);
    let mut starts = held.char_indices().map(|(at, _)| at).filter(|at| *at >= earliest);
    let begun = starts.find(|at| markers.iter().any(|m| m.starts_with(&held[*at..])));
    held[..begun.unwrap_or(held.len())].trim_end().len()
}

fn thinking(parts: &mut Vec<ReplyPart>, piece: &str) {
    if !piece.is_empty() {
        parts.push(ReplyPart::Thinking(piece.to_owned()));
    }
}

fn text(parts: &mut Vec<ReplyPart>, piece: &str) {
    if !piece.is_empty() {
        parts.push(ReplyPart::Text(piece.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tools() -> Vec<Value> {
        let properties = json!({
            "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
            "limit": {"type": ["number", "null"]}, "tags": {"type": "array"}, "where": {"type": "object"},
            "any": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        });
        let weather =
            json!({"type": "function", "function": {"name": "weather", "parameters": {"properties": properties}}});
        vec![weather, json!({"type": "function", "function": {"name": "stop"}})]
    }

    /// Thoughts, text and calls of an answer in pieces, neighbours of one kind put together.
    fn parts(prompt: &str, tools: Vec<Value>, pieces: &[&str]) -> Vec<ReplyPart> {
        let mut parser = ReplyParser::new(&QWEN, prompt, tools);
        let mut found: Vec<ReplyPart> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        found.extend(parser.finish());
        let mut joined: Vec<ReplyPart> = Vec::new();
        for part in found {
            match (joined.last_mut(), part) {
                (Some(ReplyPart::Text(before)), ReplyPart::Text(more)) => before.push_str(&more),
                (Some(ReplyPart::Thinking(before)), ReplyPart::Thinking(more)) => before.push_str(&more),
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    /// The parts of an answer, which must be the same wherever it is cut in two, and in pieces of one character.
    fn cut(prompt: &str, answer: &str) -> Vec<ReplyPart> {
        let whole = parts(prompt, tools(), &[answer]);
        for (at, _) in answer.char_indices() {
            assert_eq!(parts(prompt, tools(), &[&answer[..at], &answer[at..]]), whole, "{answer:?} cut at {at}");
        }
        let characters: Vec<&str> = answer.split_inclusive(|_| true).collect();
        assert_eq!(parts(prompt, tools(), &characters), whole, "{answer:?} in characters");
        whole
    }

    fn thought(text: &str) -> ReplyPart {
        ReplyPart::Thinking(text.into())
    }

    fn said(text: &str) -> ReplyPart {
        ReplyPart::Text(text.into())
    }

    fn called(part: &ReplyPart) -> (&str, Value) {
        match part {
            ReplyPart::ToolCall(call) => (&call.name, call.arguments.clone().into()),
            other => panic!("no call: {other:?}"),
        }
    }

    const OPEN: &str = "<|im_start|>assistant\n<think>\n";
    const CLOSED: &str = "<|im_start|>assistant\n<think>\n\n</think>\n\n";

    #[test]
    fn thoughts_end_where_they_say() {
        assert_eq!(cut(OPEN, "Hm.\n\nYes.\n</think>\n\nLima é"), [thought("Hm.\n\nYes."), said("Lima é")]);
        assert_eq!(cut(OPEN, "only thoughts </thi"), [thought("only thoughts </thi")]);
        assert_eq!(cut(CLOSED, "Lima\n"), [said("Lima\n")]);
        assert_eq!(cut(CLOSED, " \n"), []);
        assert_eq!(cut(CLOSED, " Lima"), [said(" Lima")]);
        // a model that opens its thoughts itself
        assert_eq!(cut("", "\n<think>a</think>b"), [thought("a"), said("b")]);
        assert_eq!(cut("What is <think>?<|im_end|>\n<|im_start|>assistant\n", "A tag."), [said("A tag.")]);
        // later there are no thoughts to open
        assert_eq!(cut(CLOSED, "x <think> y </think>"), [said("x <think> y </think>")]);
        assert_eq!(cut(OPEN, "a</think>\n <tool"), [thought("a"), said("<tool")]);
    }

    #[test]
    fn calls_have_the_types_of_their_schema() {
        let call = "<tool_call>\n<function=weather>\n<parameter=city>\n7\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
            <parameter=exact>\nTrue\n</parameter>\n<parameter=limit>\nnull\n</parameter>\n<parameter=tags>\n[1, \"a\"]\n</parameter>\n\
            <parameter=where>\n{\"x\": {\"y\": 1}}\n</parameter>\n<parameter=any>\n12\n</parameter>\n<parameter=more>\ntwo\nlines\n</parameter>\n\
            </function>\n</tool_call>";
        let found = cut(CLOSED, call);
        assert_eq!(found.len(), 1);
        let arguments = json!({"city": "7", "days": 3, "exact": true, "limit": null, "tags": [1, "a"], "where": {"x": {"y": 1}},
            "any": 12, "more": "two\nlines"});
        assert_eq!(called(&found[0]), ("weather", arguments));
        assert!(matches!(&found[0], ReplyPart::ToolCall(ToolCall { source, .. }) if source == call));
    }

    #[test]
    fn what_does_not_fit_its_type_stays_text() {
        let value = |key: &str, value: &str| {
            let call =
                format!("<tool_call><function=weather><parameter={key}>\n{value}\n</parameter></function></tool_call>");
            called(&cut(CLOSED, &call)[0]).1[key].clone()
        };
        assert_eq!(value("days", "soon"), json!("soon"));
        assert_eq!(value("exact", "maybe"), json!("maybe"));
        assert_eq!(value("tags", "[1,"), json!("[1,"));
        assert_eq!(value("limit", "2.5"), json!(2.5));
        assert_eq!(value("city", "null"), json!("null"));
        // one line end on each side belongs to the dialect, the others to the value
        assert_eq!(value("city", "\na\n"), json!("\na\n"));
    }

    #[test]
    fn calls_in_thoughts_between_text_and_in_json() {
        let stop = "<tool_call>\n<function=stop>\n</function>\n</tool_call>";
        let found = cut(OPEN, &format!("I must. {stop}"));
        assert_eq!(found[0], thought("I must."));
        assert_eq!(called(&found[1]), ("stop", json!({})));
        let found = cut(OPEN, &format!("a</think>\n\nOne:\n\n{stop}\n{stop}\nDone."));
        assert_eq!((&found[0], &found[1], &found[4]), (&thought("a"), &said("One:"), &said("Done.")));
        assert_eq!((called(&found[2]).0, called(&found[3]).0), ("stop", "stop"));
        let json = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Lima\"}}\n</tool_call>";
        assert_eq!(called(&cut(CLOSED, json)[0]), ("weather", json!({"city": "Lima"})));
        // the model's turn ended before the last word of the call
        assert_eq!(called(&cut(CLOSED, "<tool_call><function=stop></function>")[0]), ("stop", json!({})));
    }

    #[test]
    fn nothing_malformed_is_lost() {
        for broken in [
            "<tool_call>",
            "<tool_call>hello</tool_call>",
            "<tool_call><function=></function",
            "<tool_call><function=f><parameter=a>1</function></tool_call>",
            "<tool_call>{\"name\": 3}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
            "<tool_call>{\"name\": \"f\", </tool_call>",
        ] {
            assert_eq!(cut(CLOSED, broken), [said(broken)]);
        }
        // without tools a call is text like any other
        let call = "x <tool_call><function=stop></function></tool_call>";
        assert_eq!(parts(CLOSED, Vec::new(), &[call]), [said(call)]);
        assert_eq!(parts(OPEN, Vec::new(), &[call]), [thought(call)]);
        let mut plain = ReplyParser::default();
        assert_eq!(plain.push("<think> </think>"), [said("<think> </think>")]);
    }

    proptest! {
        /// Whatever comes in whatever pieces: the same parts, and without tools no visible character is lost.
        #[test]
        fn pieces_do_not_matter(
            words in prop::collection::vec(prop::sample::select(vec![
                "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=stop>", "</function>", "<parameter=a>",
                "</parameter>", "{\"name\": \"f\"}", "a", "é", " ", "\n", "<", "</", "<tool",
            ]), 0..16),
            cuts in prop::collection::vec(0usize..200, 0..8),
            opened: bool,
        ) {
            let answer = words.concat();
            let prompt = if opened { OPEN } else { CLOSED };
            let mut ends: Vec<usize> = cuts.into_iter().filter(|at| answer.is_char_boundary(*at)).chain([0, answer.len()]).collect();
            ends.retain(|at| *at <= answer.len());
            ends.sort_unstable();
            let pieces: Vec<&str> = ends.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parts(prompt, tools(), &pieces), parts(prompt, tools(), &[&answer]));
            let visible = |text: &str| text.replace("<think>", "").replace("</think>", "").split_whitespace().collect::<String>();
            let plain: String = parts(prompt, Vec::new(), &pieces).iter().map(|part| match part {
                ReplyPart::Thinking(text) | ReplyPart::Text(text) => text.as_str(),
                ReplyPart::ToolCall(_) => "",
            }).collect();
            prop_assert_eq!(visible(&plain), visible(&answer));
        }
    }
}
