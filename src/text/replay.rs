//! What the model wrote when it called tools, by the ids of the calls: a history that comes back reads as it was written,
//! to the byte, whatever a chat template would make of the calls. So its tokens are those that were computed before.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use super::{Content, Message};

/// Turns that are kept.
const MOST_TURNS: usize = 1024;

/// Bytes of text that are kept.
const MOST_BYTES: usize = 4 << 20;

/// Turns with calls, by the id of their first call.
#[derive(Default)]
pub(crate) struct Replay {
    turns: HashMap<String, Turn>,
    /// Oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

struct Turn {
    /// Ids of all calls, and their arguments as the client got them.
    calls: Vec<(String, String)>,
    /// What the client got as text.
    text: String,
    /// All that the model wrote behind its thoughts.
    written: String,
}

impl Turn {
    fn bytes(&self) -> usize {
        let calls = self.calls.iter().map(|(id, arguments)| id.len() + arguments.len());
        calls.sum::<usize>() + self.text.len() + self.written.len()
    }
}

impl Replay {
    /// Keeps a turn: its calls' ids and arguments, the text that the client got, and all that was written.
    pub(crate) fn keep(&mut self, calls: Vec<(String, String)>, text: &str, written: &str) {
        let Some((first, _)) = calls.first() else { return };
        self.order.push_back(first.clone());
        let turn = Turn { text: text.trim().to_owned(), written: written.trim().to_owned(), calls };
        self.bytes += turn.bytes();
        self.turns.insert(turn.calls[0].0.clone(), turn);
        while self.order.len() > MOST_TURNS || self.bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(turn) = self.turns.remove(&oldest) {
                self.bytes -= turn.bytes();
            }
        }
    }

    /// Puts the written text into a message of an assistant whose calls are known and unchanged.
    pub(crate) fn restore(&self, message: &mut Message) {
        let Some(calls) = &message.tool_calls else { return };
        let given: Option<Vec<(&str, &Value)>> = calls
            .iter()
            .map(|call| Some((call.get("id")?.as_str()?, call.get("function")?.get("arguments")?)))
            .collect();
        let Some(turn) = given.as_ref().and_then(|given| self.turns.get(given.first()?.0)) else { return };
        let text = match &message.content {
            Content::Text(text) => text.trim(),
            Content::None => "",
            Content::Parts(_) => return,
        };
        let is_same = |(id, arguments): &(&str, &Value), (kept, written): &(String, String)| {
            let arguments = match arguments {
                Value::String(text) => serde_json::from_str(text).ok(),
                other => Some((*other).clone()),
            };
            id == kept && arguments == serde_json::from_str::<Value>(written).ok()
        };
        let given = given.unwrap_or_default();
        if text == turn.text
            && given.len() == turn.calls.len()
            && given.iter().zip(&turn.calls).all(|(a, b)| is_same(a, b))
        {
            message.content = Content::Text(turn.written.clone());
            message.tool_calls = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(id: &str, arguments: Value, text: Content) -> Message {
        let call = json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
        Message { role: "assistant".into(), content: text, tool_calls: Some(vec![call]), ..Message::default() }
    }

    #[test]
    fn only_unchanged_turns_are_restored() {
        let mut replay = Replay::default();
        replay.keep(vec![("a".into(), "{\"x\":1}".into())], "", "\n\n<tool_call>x</tool_call>");
        for same in [
            message("a", json!("{ \"x\": 1 }"), Content::None),
            message("a", json!({"x": 1}), Content::Text(" ".into())),
        ] {
            let mut restored = same;
            replay.restore(&mut restored);
            assert_eq!(restored.content, Content::Text("<tool_call>x</tool_call>".into()));
            assert_eq!(restored.tool_calls, None);
        }
        for other in [
            message("b", json!("{\"x\":1}"), Content::None),
            message("a", json!("{\"x\":2}"), Content::None),
            message("a", json!("{\"x\":1}"), Content::Text("hm".into())),
        ] {
            let mut restored = other.clone();
            replay.restore(&mut restored);
            assert_eq!(restored, other);
        }
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let mut replay = Replay::default();
        let long = "x".repeat(1 << 20);
        for turn in 0..2 * MOST_TURNS {
            replay.keep(vec![(turn.to_string(), "{}".into())], "", if turn % 2 == 0 { "y" } else { &long });
        }
        assert!(replay.bytes <= MOST_BYTES && replay.turns.len() <= MOST_TURNS, "{} bytes", replay.bytes);
        assert_eq!(replay.turns.len(), replay.order.len());
    }
}
