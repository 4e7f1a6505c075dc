//! `POST /v1/messages` and `/v1/messages/count_tokens`, Anthropic's protocol.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde_json::{Value, json};

use super::Server;
use super::answer::is_cut;
use super::body;
use super::error::{ApiError, json_response};
use super::messages_stream::Blocks;
use super::request::function;
use super::sse;
use crate::request::{
    BodyKeys, Unreadable, content_text, json_schema, new_id, sampling, template_keys, thinking_budget,
};
use crate::{Content, Generated, Message, Prompt, Request, ToolChoice};

/// A line that Claude Code puts in front of its system prompt, different each time: every prompt would be a new one.
const BILLING_LINE: &str = "x-anthropic-billing-header:";

/// What the body asks for; keys that nobody knows are left.
fn wanted(keys: &mut BodyKeys) -> Result<Request, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = keys.value("system") {
        let text = without_billing(&content_text(&system, "\n", Unreadable::Named, "system")?);
        if !text.is_empty() {
            messages.push(Message::new("system", text));
        }
    }
    let given: Option<Vec<Value>> = keys.get("messages")?;
    let given = given.ok_or_else(|| ApiError::invalid("messages: Field required").at("messages"))?;
    let last = given.len().saturating_sub(1);
    for (i, message) in given.into_iter().enumerate() {
        convert(message, i, i == last, &mut messages)?;
    }
    let (choice, one_call) = tool_choice(keys.value("tool_choice").as_ref())?;
    let (config, format) = (keys.value("output_config").unwrap_or_default(), keys.value("output_format"));
    let format = config.get("format").or(format.as_ref());
    // thoughts are asked for, or there are none
    let mut template = template_keys(keys)?;
    template.entry("enable_thinking").or_insert(false.into());
    let thinking_budget = thinking_budget(keys, &mut template)?;
    let mut request = Request {
        prompt: Prompt::Chat(messages),
        tools: tools(keys.get("tools")?.unwrap_or_default()),
        tool_choice: choice,
        one_call,
        json_schema: json_schema(format, "output_format")?,
        max_tokens: keys.count(&["max_tokens"])?,
        thinking_budget,
        template,
        ..Request::default()
    };
    sampling(keys, &mut request)?;
    Ok(request)
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    if !keys.has("max_tokens") {
        return Err(ApiError::invalid("max_tokens: Field required").at("max_tokens"));
    }
    let is_stream = keys.get("stream")? == Some(true);
    let request = wanted(&mut keys)?;
    server.tell_ignored("/v1/messages", &keys);
    let mut running = server.submit(request).await?;
    let (id, model) = (new_id("msg_"), running.model.name.clone());
    if is_stream {
        let (stops, prompt) = (running.stops.clone(), running.prompt_tokens);
        return Ok(sse::response(running, Blocks::new(id, model, prompt, stops)));
    }
    let (whole, done) = running.whole().await?;
    let mut content = Vec::new();
    if !whole.thinking.is_empty() {
        content.push(json!({"type": "thinking", "thinking": whole.thinking, "signature": signature(&whole.thinking)}));
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
    let mut keys = body::keys(request).await?;
    let tokens = server.tokens(wanted(&mut keys)?).await?;
    Ok(json_response(StatusCode::OK, &json!({"input_tokens": tokens.len()})))
}

/// What stands for the proof that thoughts are their maker's: clients keep it and send it back, and some drop thoughts
/// without one. Nothing is proved by it; the same thoughts have the same.
pub(super) fn signature(thoughts: &str) -> String {
    format!("flashflood-{:032x}", xxhash_rust::xxh3::xxh3_128(thoughts.as_bytes()))
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
fn convert(message: Value, index: usize, is_last: bool, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let at = format!("messages[{index}].content");
    let role = message["role"].as_str().unwrap_or_default().to_owned();
    if !["user", "assistant", "system"].contains(&role.as_str()) {
        return Err(ApiError::invalid(format!("the role {role:?} is not user or assistant")).at(at));
    }
    let blocks = match message.get("content") {
        Some(Value::Array(blocks)) => blocks.clone(),
        Some(Value::String(text)) => {
            messages.push(Message::new(role, text.clone()));
            return Ok(());
        }
        _ => return Err(ApiError::invalid("content is a text or a list of blocks").at(at)),
    };
    // what is asked now must be read; what comes from a history, or from a tool, is named
    let unreadable = if is_last && role == "user" { Unreadable::Refused } else { Unreadable::Named };
    let (mut text, mut thoughts, mut calls) = (Vec::new(), String::new(), Vec::new());
    let field = |block: &Value, key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    for block in blocks {
        match block.get("type").and_then(Value::as_str) {
            Some("thinking") => thoughts.push_str(&field(&block, "thinking")),
            Some("redacted_thinking") => {
                tracing::info!("a redacted thought of the history is left out: only who made it can read it");
            }
            Some("tool_use") => calls.push(json!({
                "id": field(&block, "id"),
                "type": "function",
                "function": {"name": field(&block, "name"), "arguments": block.get("input")},
            })),
            Some("tool_result") => {
                let content = block.get("content").unwrap_or(&Value::Null);
                let mut result = Message::new("tool", content_text(content, "\n", Unreadable::Named, &at)?);
                result.other.insert("tool_call_id".to_owned(), field(&block, "tool_use_id").into());
                messages.push(result);
            }
            Some("text") | None => text.push(content_text(&block, "", unreadable, &at)?),
            // apart from its neighbours
            Some(_) => text.push(format!("{}\n", content_text(&block, "", unreadable, &at)?)),
        }
    }
    let text = text.concat();
    let has_text = !text.is_empty();
    let is_assistant = role == "assistant";
    let mut converted = Message::new(role, text);
    converted.reasoning_content = (!thoughts.is_empty()).then_some(thoughts);
    converted.tool_calls = (!calls.is_empty()).then_some(calls);
    if has_text || is_assistant {
        if !has_text {
            converted.content = Content::None;
        }
        messages.push(converted);
    }
    Ok(())
}

fn without_billing(system: &str) -> String {
    let is_kept = |line: &&str| !line.trim_start().starts_with(BILLING_LINE);
    system.split_inclusive('\n').filter(is_kept).collect()
}

/// Custom tools; those that run on a provider's own servers are left out, with a word in the log.
fn tools(tools: Vec<Value>) -> Vec<Value> {
    let convert = |tool: Value| match (tool.get("type").and_then(Value::as_str), tool.get("input_schema")) {
        (None | Some("custom"), schema) => Some(function(tool.get("name"), tool.get("description"), schema)),
        (Some(kind), _) => {
            tracing::warn!("a tool of type {kind:?} runs on its provider's servers: it is left out");
            None
        }
    };
    tools.into_iter().filter_map(convert).collect()
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
        let text = content_text(&system, "\n", Unreadable::Named, "system").unwrap();
        assert_eq!(without_billing(&text), "Be brief.\nAlways.");
        assert_eq!(without_billing("a x-anthropic-billing-header: stays"), "a x-anthropic-billing-header: stays");
    }

    #[test]
    fn blocks_become_messages() {
        let body = json!({"max_tokens": 1, "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "42"}]},
                {"type": "text", "text": "and?"}]},
        ]});
        let request = wanted(&mut BodyKeys::new(body).unwrap()).unwrap();
        let Prompt::Chat(messages) = request.prompt else { panic!() };
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
