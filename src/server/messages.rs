//! `POST /v1/messages` and `/v1/messages/count_tokens`, Anthropic's protocol.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Server;
use super::answer::is_cut;
use super::body;
use super::error::{ApiError, json_response};
use super::messages_stream::Blocks;
use super::request::function;
use super::sse;
use crate::request::{Sampling, json_schema, new_id, text_of, whole};
use crate::{Content, Generated, Message, Prompt, Request, RequestError, ToolChoice};

/// A line that Claude Code puts in front of its system prompt, different each time: every prompt would be a new one.
const BILLING_LINE: &str = "x-anthropic-billing-header:";

#[derive(Deserialize)]
struct MessagesBody {
    messages: Vec<InputMessage>,
    system: Option<Value>,
    max_tokens: Option<u64>,
    #[serde(flatten)]
    sampling: Sampling,
    stream: Option<bool>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    thinking: Option<Value>,
    output_config: Option<Value>,
    output_format: Option<Value>,
    mcp_servers: Option<Vec<Value>>,
    container: Option<Value>,
}

#[derive(Deserialize)]
struct InputMessage {
    role: String,
    content: Value,
}

impl MessagesBody {
    fn wanted(self) -> Result<Request, ApiError> {
        if self.mcp_servers.is_some_and(|servers| !servers.is_empty()) || self.container.is_some_and(|c| !c.is_null()) {
            return Err(ApiError::unsupported("mcp_servers", "there are no servers of tools and no containers here"));
        }
        let mut messages = Vec::new();
        if let Some(system) = self.system.filter(|system| !system.is_null()) {
            let text = without_billing(&text_of_blocks(&system, "system")?);
            if !text.is_empty() {
                messages.push(Message::new("system", text));
            }
        }
        for (i, message) in self.messages.into_iter().enumerate() {
            convert(message, i, &mut messages)?;
        }
        let (choice, one_call) = tool_choice(self.tool_choice.as_ref())?;
        let format =
            self.output_config.as_ref().and_then(|config| config.get("format")).or(self.output_format.as_ref());
        let mut template = Map::new();
        let thinking = self.thinking.as_ref().and_then(|thinking| thinking["type"].as_str());
        template.insert("enable_thinking".to_owned(), matches!(thinking, Some("enabled" | "adaptive")).into());
        let budget = self.thinking.as_ref().and_then(|thinking| thinking["budget_tokens"].as_u64());
        let mut request = Request {
            prompt: Prompt::Chat(messages),
            tools: tools(self.tools.unwrap_or_default())?,
            tool_choice: choice,
            one_call,
            json_schema: json_schema(format, "output_format")?,
            max_tokens: self.max_tokens.map(whole),
            thinking_budget: budget.map(whole),
            template,
            ..Request::default()
        };
        self.sampling.fill(&mut request)?;
        Ok(request)
    }
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: MessagesBody = body::json(request).await?;
    if request.max_tokens.is_none() {
        return Err(ApiError::invalid("max_tokens: Field required"));
    }
    let is_stream = request.stream == Some(true);
    let mut running = server.submit(request.wanted()?).await?;
    let (id, model) = (new_id("msg_"), running.model.name.clone());
    if is_stream {
        let (stops, prompt) = (running.stops.clone(), running.prompt_tokens);
        return Ok(sse::response(running, Blocks::new(id, model, prompt, stops)));
    }
    let (whole, done) = running.whole().await?;
    let mut content = Vec::new();
    if !whole.thinking.is_empty() {
        content.push(json!({"type": "thinking", "thinking": whole.thinking, "signature": ""}));
    }
    if !whole.text.is_empty() {
        content.push(json!({"type": "text", "text": whole.text}));
    }
    for call in &whole.calls {
        // what is made of a call is always an object
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        content.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input}));
    }
    let (reason, stop) = stop_reason(&done, !whole.calls.is_empty(), &running.stops);
    let answer = json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": stop,
        "usage": usage(&done),
    });
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn count_tokens(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: MessagesBody = body::json(request).await?;
    let tokens = server.tokens(request.wanted()?).await?;
    Ok(json_response(StatusCode::OK, &json!({"input_tokens": tokens.len()})))
}

pub(super) fn stop_reason(done: &Generated, has_calls: bool, stops: &[String]) -> (&'static str, Option<String>) {
    let stop = done.stop_string.and_then(|i| stops.get(i).cloned());
    match (is_cut(done), has_calls, &stop) {
        (true, ..) => ("max_tokens", None),
        (_, _, Some(_)) => ("stop_sequence", stop),
        (_, true, _) => ("tool_use", None),
        (_, false, None) => ("end_turn", None),
    }
}

pub(super) fn usage(done: &Generated) -> Value {
    json!({
        "input_tokens": done.prompt - done.reused,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": done.reused,
        "output_tokens": done.tokens.len(),
    })
}

/// One message of Anthropic's is one or several of a template's: results of tools stand alone.
fn convert(message: InputMessage, index: usize, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let at = format!("messages[{index}].content");
    if !["user", "assistant", "system"].contains(&message.role.as_str()) {
        return Err(ApiError::invalid(format!("the role {:?} is not user or assistant", message.role)));
    }
    let blocks = match message.content {
        Value::Array(blocks) => blocks,
        Value::String(text) => {
            messages.push(Message::new(message.role, text));
            return Ok(());
        }
        _ => return Err(ApiError::invalid("content is a text or a list of blocks").at(at)),
    };
    let (mut text, mut thoughts, mut calls) = (Vec::new(), String::new(), Vec::new());
    let field = |block: &Value, key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    for block in blocks {
        match block.get("type").and_then(Value::as_str) {
            Some("thinking") => thoughts.push_str(&field(&block, "thinking")),
            Some("redacted_thinking") => {}
            Some("tool_use") => calls.push(json!({
                "id": field(&block, "id"),
                "type": "function",
                "function": {"name": field(&block, "name"), "arguments": block.get("input")},
            })),
            Some("tool_result") => {
                let content = block.get("content").filter(|content| !content.is_null());
                let result = content.map_or(Ok(String::new()), |content| text_of_blocks(content, &at))?;
                let mut result = Message::new("tool", result);
                result.other.insert("tool_call_id".to_owned(), field(&block, "tool_use_id").into());
                messages.push(result);
            }
            _ => text.push(block),
        }
    }
    let has_text = !text.is_empty();
    let mut converted = Message::new(message.role, text_of(&text, &at)?);
    converted.reasoning_content = (!thoughts.is_empty()).then_some(thoughts);
    let is_assistant = converted.role == "assistant";
    converted.tool_calls = (!calls.is_empty()).then_some(calls);
    if has_text || is_assistant {
        converted.content = match converted.content {
            Content::Text(text) if text.is_empty() => Content::None,
            content => content,
        };
        messages.push(converted);
    }
    Ok(())
}

/// A text, or blocks of text.
fn text_of_blocks(content: &Value, parameter: &str) -> Result<String, ApiError> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let texts: Result<Vec<String>, RequestError> =
                blocks.iter().map(|block| text_of(std::slice::from_ref(block), parameter)).collect();
            Ok(texts?.join("\n"))
        }
        _ => Err(ApiError::invalid("expected a text or a list of blocks").at(parameter)),
    }
}

fn without_billing(system: &str) -> String {
    let is_kept = |line: &&str| !line.trim_start().starts_with(BILLING_LINE);
    system.split_inclusive('\n').filter(is_kept).collect()
}

fn tools(tools: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let convert = |(i, tool): (usize, Value)| match tool.get("type").and_then(Value::as_str) {
        None | Some("custom") => Ok(function(tool.get("name"), tool.get("description"), tool.get("input_schema"))),
        Some(kind) => {
            let message = format!("a tool of type {kind:?} runs on Anthropic's servers; here are custom tools only");
            Err(ApiError::unsupported(&format!("tools[{i}]"), &message))
        }
    };
    tools.into_iter().enumerate().map(convert).collect()
}

/// The choice, and whether one call is the most.
fn tool_choice(choice: Option<&Value>) -> Result<(ToolChoice, bool), ApiError> {
    let Some(choice) = choice.filter(|choice| !choice.is_null()) else { return Ok((ToolChoice::Auto, false)) };
    let one_call = choice["disable_parallel_tool_use"] == true;
    let choice = match (choice["type"].as_str(), choice["name"].as_str()) {
        (Some("auto"), _) => ToolChoice::Auto,
        (Some("none"), _) => ToolChoice::None,
        (Some("any"), _) => ToolChoice::Required,
        (Some("tool"), Some(name)) => ToolChoice::Named(name.to_owned()),
        _ => return Err(ApiError::unsupported("tool_choice", "tool_choice is auto, any, none or a named tool")),
    };
    Ok((choice, one_call))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_billing_line_is_left_out() {
        let system = json!([{"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=2;"}, {"type": "text", "text": "Be brief.\nAlways."}]);
        let text = text_of_blocks(&system, "system").unwrap();
        assert_eq!(without_billing(&text), "Be brief.\nAlways.");
        assert_eq!(without_billing("a x-anthropic-billing-header: stays"), "a x-anthropic-billing-header: stays");
    }

    #[test]
    fn blocks_become_messages() {
        let request: MessagesBody = serde_json::from_value(json!({"max_tokens": 1, "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "42"}]},
                {"type": "text", "text": "and?"}]},
        ]})).unwrap();
        let Prompt::Chat(messages) = request.wanted().unwrap().prompt else { panic!() };
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "user"]);
        assert_eq!(messages[1].reasoning_content.as_deref(), Some("hm"));
        assert_eq!(messages[1].tool_calls.as_ref().unwrap()[0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!(
            (&messages[2].content, &messages[2].other["tool_call_id"]),
            (&Content::Text("42".into()), &json!("a"))
        );
    }
}
