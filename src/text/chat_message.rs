//! A turn of a conversation, in the shape of an OpenAI chat message.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation. Reads and writes OpenAI-style JSON; chat templates see the same keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: Content,
    /// An assistant's thoughts, where they are kept apart from the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions the assistant called: `[{"type": "function", "function": {"name": .., "arguments": ..}}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Any other key (`name`, `tool_call_id`, ..), for templates that use it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The content of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// None, as in a message that only calls tools.
    #[default]
    None,
    /// Plain text.
    Text(String),
    /// Parts, such as `{"type": "text", "text": ..}`; what to make of them is the template's business.
    Parts(Vec<Value>),
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()), ..Self::default() }
    }

    /// The message as a template sees it: arguments of tool calls, which OpenAI sends as a JSON text, are objects.
    pub(super) fn for_template(&self) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), self.role.clone().into());
        let content = match &self.content {
            Content::None => Value::Null,
            Content::Text(text) => text.clone().into(),
            Content::Parts(parts) => parts.clone().into(),
        };
        message.insert("content".into(), content);
        if let Some(reasoning) = &self.reasoning_content {
            message.insert("reasoning_content".into(), reasoning.clone().into());
        }
        if let Some(calls) = &self.tool_calls {
            let mut calls = calls.clone();
            for call in &mut calls {
                object_arguments(call);
            }
            message.insert("tool_calls".into(), calls.into());
        }
        for (key, value) in &self.other {
            message.insert(key.clone(), value.clone());
        }
        Value::Object(message)
    }
}

/// Arguments that are no object, which a model wrote wrongly once, are kept as they are under one name: a history that
/// cannot be rendered would end the conversation for good.
fn object_arguments(call: &mut Value) {
    let function = match call.get("function") {
        Some(_) => &mut call["function"],
        None => call,
    };
    let Some(arguments) = function.get_mut("arguments") else { return };
    let parsed = match &*arguments {
        Value::String(text) if text.trim().is_empty() => Value::Null,
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
        other => other.clone(),
    };
    *arguments = match parsed {
        Value::Object(_) => parsed,
        Value::Null => Value::Object(Map::new()),
        other => serde_json::json!({"arguments": other}),
    };
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use serde_json::json;

    #[test]
    fn openai_json_goes_in_and_out() {
        for json in [
            json!({"role": "user", "content": "hi", "name": "Ada"}),
            json!({"role": "user", "content": [{"type": "text", "text": "hi"}]}),
            json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}),
            json!({"role": "tool", "content": "42", "tool_call_id": "1"}),
        ] {
            let message: Message = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(serde_json::to_value(&message).unwrap(), json);
        }
        let bare: Message = serde_json::from_value(json!({"role": "assistant"})).unwrap();
        assert_eq!(bare.content, Content::None);
        assert!(serde_json::from_value::<Message>(json!({"role": "user", "content": 4})).is_err());
    }

    #[test]
    fn arguments_become_objects() {
        let call = |arguments: Value| Message {
            role: "assistant".into(),
            tool_calls: Some(vec![json!({"function": {"name": "f", "arguments": arguments}})]),
            ..Message::default()
        };
        let arguments = |given: Value| call(given).for_template()["tool_calls"][0]["function"]["arguments"].clone();
        assert_eq!(arguments(json!("{\"b\": 1, \"a\": 2}")).to_string(), r#"{"b":1,"a":2}"#);
        assert_eq!(arguments(json!("")), json!({}));
        assert_eq!(arguments(json!({"x": null})), json!({"x": null}));
        // what is no object was written by a model: it stays readable
        for (odd, expected) in [
            (json!("[1]"), json!({"arguments": [1]})),
            (json!("{\"a\""), json!({"arguments": "{\"a\""})),
            (json!(3), json!({"arguments": 3})),
            (json!("null"), json!({})),
        ] {
            assert_eq!(arguments(odd), expected);
        }
        let odd = Message { tool_calls: Some(vec![json!(1), json!({})]), ..Message::default() };
        assert_eq!(odd.for_template()["tool_calls"], json!([1, {}]));
    }
}
