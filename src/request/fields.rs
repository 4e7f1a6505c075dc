//! Fields of requests that several protocols have in common.

use serde::Deserialize;
use serde_json::Value;

use super::{Request, RequestError, ToolChoice};
use crate::text::{Content, Message, SamplerOptions};

/// Most stop strings.
const MOST_STOPS: usize = 16;

/// How tokens are chosen, and where text stops.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sampling {
    temperature: Option<f32>,
    top_p: Option<f32>,
    /// 0 and less: all.
    top_k: Option<i64>,
    min_p: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    #[serde(alias = "repeat_penalty")]
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    #[serde(alias = "stop_sequences")]
    stop: Option<OneOrMany>,
}

/// `"a"` or `["a", "b"]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Sampling {
    /// Puts them into a request.
    ///
    /// # Errors
    /// Too many stop strings.
    pub(crate) fn fill(self, request: &mut Request) -> Result<(), RequestError> {
        request.seed = self.seed.map(|seed| seed as u64);
        request.sampling = SamplerOptions {
            // not `> 0`: the sampler refuses what is no temperature
            do_sample: self.temperature.map(|t| t != 0.0),
            temperature: self.temperature,
            top_k: self.top_k.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX)),
            top_p: self.top_p,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
        };
        request.stop = match self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop],
            Some(OneOrMany::Many(stops)) => stops,
        };
        if request.stop.len() > MOST_STOPS {
            let message = format!("at most {MOST_STOPS} stop strings are possible, found {}", request.stop.len());
            return Err(RequestError::invalid(message).at("stop"));
        }
        Ok(())
    }
}

impl ToolChoice {
    /// OpenAI's form, in which a named function is at `function.name` (chat) or at `name` (responses).
    pub(crate) fn from_openai(value: Option<&Value>) -> Result<Self, RequestError> {
        let Some(value) = value else { return Ok(Self::Auto) };
        let name = value.pointer("/function/name").or_else(|| value.get("name")).and_then(Value::as_str);
        match (value.as_str(), value.get("type").and_then(Value::as_str), name) {
            (Some("auto"), ..) => Ok(Self::Auto),
            (Some("none"), ..) => Ok(Self::None),
            (Some("required"), ..) => Ok(Self::Required),
            (None, Some("function"), Some(name)) => Ok(Self::Named(name.to_owned())),
            _ if value.is_null() => Ok(Self::Auto),
            _ => {
                Err(RequestError::unsupported("tool_choice", "tool_choice is auto, none, required or a named function"))
            }
        }
    }
}

/// The schema that a `response_format` (chat) or `text.format` (responses) asks for; `schema` finds a schema in it.
pub(crate) fn json_schema(format: Option<&Value>, parameter: &'static str) -> Result<Option<Value>, RequestError> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(serde_json::json!({"type": "object"}))),
        Some("json_schema") => {
            let schema = format.pointer("/json_schema/schema").or_else(|| format.get("schema"));
            let schema = schema.filter(|schema| schema.is_object());
            schema.cloned().map(Some).ok_or_else(|| RequestError::invalid("json_schema needs a schema").at(parameter))
        }
        _ => Err(RequestError::unsupported(parameter, "the type is text, json_object or json_schema")),
    }
}

/// Whether thinking is asked for by an effort: `none` and `minimal` ask for none.
pub(crate) fn thinks(effort: Option<&str>) -> Result<Option<bool>, RequestError> {
    match effort {
        None => Ok(None),
        Some("none" | "minimal") => Ok(Some(false)),
        Some("low" | "medium" | "high" | "xhigh" | "max") => Ok(Some(true)),
        Some(_) => Err(RequestError::unsupported(
            "reasoning_effort",
            "the effort is none, minimal, low, medium, high, xhigh or max",
        )),
    }
}

/// Tools must be functions with names that can stand in a prompt.
pub(super) fn check_tools(tools: &[Value]) -> Result<(), RequestError> {
    for (i, tool) in tools.iter().enumerate() {
        let name = tool.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            return Err(RequestError::unsupported(&format!("tools[{i}].type"), "tools are functions"));
        }
        if name.is_empty() || name.len() > 128 || !name.chars().all(is_name) {
            let message = "a function's name has letters, digits, and _ - . : /, 128 at most";
            return Err(RequestError::invalid(message).at(format!("tools[{i}].function.name")));
        }
    }
    Ok(())
}

/// Messages as templates have them: content is one text, thoughts stand in `reasoning_content`.
pub(super) fn plain_messages(messages: Vec<Message>) -> Result<Vec<Message>, RequestError> {
    if messages.is_empty() {
        return Err(RequestError::invalid("there are no messages").at("messages"));
    }
    let plain = |(i, mut message): (usize, Message)| {
        message.role = match message.role.as_str() {
            "developer" => "system".to_owned(),
            "system" | "user" | "assistant" | "tool" => message.role,
            other => {
                let text = format!("the role {other:?} is not system, developer, user, assistant or tool");
                return Err(RequestError::invalid(text).at(format!("messages[{i}].role")));
            }
        };
        message.content = Content::Text(match message.content {
            Content::None => String::new(),
            Content::Text(text) => text,
            Content::Parts(parts) => text_of(&parts, &format!("messages[{i}].content"))?,
        });
        if let Some(Value::String(thoughts)) = message.other.shift_remove("reasoning") {
            message.reasoning_content.get_or_insert(thoughts);
        }
        Ok(message)
    };
    messages.into_iter().enumerate().map(plain).collect()
}

/// Parts of text, one after the other; anything else is refused.
pub(crate) fn text_of(parts: &[Value], parameter: &str) -> Result<String, RequestError> {
    let text = |part: &Value| match (part, part.get("type").and_then(Value::as_str)) {
        (Value::String(text), _) => Ok(text.clone()),
        (_, Some("text" | "input_text" | "output_text" | "refusal")) => {
            let text = part.get("text").or_else(|| part.get("refusal")).and_then(Value::as_str);
            text.map(str::to_owned).ok_or_else(|| RequestError::invalid("a part of text has no text").at(parameter))
        }
        (_, kind) => {
            let message = format!("this model reads text; a part of type {:?} is not", kind.unwrap_or("none"));
            Err(RequestError::unsupported(parameter, &message))
        }
    };
    parts.iter().map(text).collect()
}
