//! A turn of a conversation, in the shape of an OpenAI chat message.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TextError;

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
    /// `index` is the message's place in the conversation, for errors.
    pub(super) fn for_template(&self, index: usize) -> Result<Value, TextError> {
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
                object_arguments(call, index)?;
            }
            message.insert("tool_calls".into(), calls.into());
        }
        for (key, value) in &self.other {
            message.insert(key.clone(), value.clone());
        }
        Ok(Value::Object(message))
    }
}

fn object_arguments(call: &mut Value, message: usize) -> Result<(), TextError> {
    let function = match call.get("function") {
        Some(_) => &mut call["function"],
        None => call,
    };
    let name = function.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
    let Some(arguments) = function.get_mut("arguments") else {
        return Ok(());
    };
    let parsed = match &*arguments {
        Value::Object(_) => return Ok(()),
        Value::Null => Some(Value::Object(Map::new())),
        Value::String(text) if text.trim().is_empty() => Some(Value::Object(Map::new())),
        Value::String(text) => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    };
    match parsed {
        Some(parsed) => {
            *arguments = parsed;
            Ok(())
        }
        None => Err(TextError::ToolArguments { message, name, found: arguments.to_string() }),
    }
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
        let arguments = |message: Message| {
            let value = message.for_template(3)?;
            Ok::<_, TextError>(value["tool_calls"][0]["function"]["arguments"].clone())
        };
        assert_eq!(arguments(call(json!("{\"b\": 1, \"a\": 2}"))).unwrap().to_string(), r#"{"b":1,"a":2}"#);
        assert_eq!(arguments(call(json!(""))).unwrap(), json!({}));
        assert_eq!(arguments(call(json!({"x": null}))).unwrap(), json!({"x": null}));
        for bad in [json!("[1]"), json!("{\"a\""), json!(3)] {
            let error = arguments(call(bad)).unwrap_err().to_string();
            assert!(error.contains("message 3") && error.contains("`f`"), "{error}");
        }
        let odd = Message { tool_calls: Some(vec![json!(1), json!({})]), ..Message::default() };
        assert!(odd.for_template(0).is_ok());
    }
}
