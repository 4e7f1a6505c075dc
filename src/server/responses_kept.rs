//! Conversations by their last response, for `previous_response_id`: the newest ones, in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::Message;

/// Conversations that are kept.
const MOST: usize = 256;

/// Bytes of text that they may have.
const MOST_BYTES: usize = 64 << 20;

/// The messages before and of a response, by its id.
#[derive(Default)]
pub(crate) struct KeptResponses(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    conversations: HashMap<String, (Vec<Message>, usize)>,
    /// Oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl KeptResponses {
    /// Keeps a conversation; the oldest make room.
    pub(crate) fn keep(&self, id: &str, messages: Vec<Message>) {
        let bytes = serde_json::to_string(&messages).map_or(0, |text| text.len());
        if bytes > MOST_BYTES {
            return;
        }
        // it is whole after every statement that changes it
        let kept = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes;
        kept.order.push_back(id.to_owned());
        kept.conversations.insert(id.to_owned(), (messages, bytes));
        while kept.order.len() > MOST || kept.bytes > MOST_BYTES {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.bytes -= kept.conversations.remove(&oldest).map_or(0, |(_, bytes)| bytes);
        }
    }

    /// The conversation up to a response, that among them.
    pub(crate) fn get(&self, id: &str) -> Option<Vec<Message>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.conversations.get(id).map(|(messages, _)| messages.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let kept = KeptResponses::default();
        for i in 0..=MOST {
            kept.keep(&format!("resp_{i}"), vec![Message::new("user", "x")]);
        }
        assert!(kept.get("resp_0").is_none());
        assert_eq!(kept.get("resp_1"), Some(vec![Message::new("user", "x")]));
        kept.keep("large", vec![Message::new("user", "x".repeat(MOST_BYTES))]);
        assert!(kept.get("large").is_none() && kept.get("resp_1").is_some());
    }
}
