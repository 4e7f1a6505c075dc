//! `POST /v1/responses`, OpenAI's newer protocol, without stored conversations: the whole history comes with each request.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Server;
use super::answer::{Call, is_cut};
use super::body;
use super::error::{ApiError, json_response};
use super::model::now;
use super::request::function;
use super::responses_stream::Items;
use super::sse;
use crate::request::{Sampling, json_schema, new_id, text_of, thinks, whole};
use crate::{Content, Generated, Message, Prompt, Request, ToolChoice};

#[derive(Deserialize)]
struct ResponsesBody {
    input: Value,
    instructions: Option<String>,
    #[serde(flatten)]
    sampling: Sampling,
    stream: Option<bool>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<Value>,
    max_output_tokens: Option<u64>,
    reasoning: Option<Value>,
    chat_template_kwargs: Option<Map<String, Value>>,
    previous_response_id: Option<String>,
    conversation: Option<Value>,
    background: Option<bool>,
}

impl ResponsesBody {
    fn wanted(self) -> Result<Request, ApiError> {
        if self.previous_response_id.is_some() || self.conversation.is_some_and(|value| !value.is_null()) {
            let what = "conversations are not stored here: send the whole history as input";
            return Err(ApiError::unsupported("previous_response_id", what));
        }
        if self.background == Some(true) {
            return Err(ApiError::unsupported("background", "answers are given while the caller waits"));
        }
        let mut messages = Vec::new();
        if let Some(instructions) = self.instructions {
            messages.push(Message::new("system", instructions));
        }
        match self.input {
            Value::String(text) => messages.push(Message::new("user", text)),
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    convert(item, &format!("input[{i}]"), &mut messages)?;
                }
            }
            _ => return Err(ApiError::invalid("input is a text or a list of items").at("input")),
        }
        let mut template = Map::new();
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning["effort"].as_str());
        if let Some(thinks) = thinks(effort)? {
            template.insert("enable_thinking".to_owned(), thinks.into());
        }
        template.extend(self.chat_template_kwargs.unwrap_or_default());
        let tools = self.tools.unwrap_or_default();
        let tool = |(i, tool): (usize, &Value)| match tool["type"].as_str() {
            Some("function") => Ok(function(tool.get("name"), tool.get("description"), tool.get("parameters"))),
            _ => Err(ApiError::unsupported(&format!("tools[{i}].type"), "tools are functions")),
        };
        let mut request = Request {
            prompt: Prompt::Chat(messages),
            tools: tools.iter().enumerate().map(tool).collect::<Result<_, _>>()?,
            tool_choice: ToolChoice::from_openai(self.tool_choice.as_ref())?,
            one_call: self.parallel_tool_calls == Some(false),
            json_schema: json_schema(self.text.as_ref().and_then(|text| text.get("format")), "text.format")?,
            max_tokens: self.max_output_tokens.map(whole),
            template,
            ..Request::default()
        };
        self.sampling.fill(&mut request)?;
        Ok(request)
    }
}

/// One item of the input. Calls and thoughts belong to the message of an assistant before them, if there is one.
fn convert(item: &Value, at: &str, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let field = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
    match item.get("type").and_then(Value::as_str) {
        None | Some("message") => {
            let text = match item.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => text_of(parts, at)?,
                _ => return Err(ApiError::invalid("a message has content").at(at)),
            };
            // thoughts stand before their message
            let role = field("role");
            match messages.last_mut() {
                Some(last)
                    if role == "assistant"
                        && last.role == role
                        && last.content == Content::None
                        && last.tool_calls.is_none() =>
                {
                    last.content = Content::Text(text);
                }
                _ => messages.push(Message::new(role, text)),
            }
        }
        Some("function_call") => {
            let call = json!({
                "id": field("call_id"),
                "type": "function",
                "function": {"name": field("name"), "arguments": field("arguments")},
            });
            assistant(messages).tool_calls.get_or_insert_default().push(call);
        }
        Some("function_call_output") => {
            let output = match item.get("output") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => text_of(parts, at)?,
                _ => return Err(ApiError::invalid("a function_call_output has an output").at(at)),
            };
            let mut message = Message::new("tool", output);
            message.other.insert("tool_call_id".to_owned(), field("call_id").into());
            messages.push(message);
        }
        Some("reasoning") => {
            let parts = item.get("content").and_then(Value::as_array).into_iter().flatten();
            let thoughts: String = parts.filter_map(|part| part["text"].as_str()).collect();
            if !thoughts.is_empty() {
                let message =
                    Message { role: "assistant".into(), reasoning_content: Some(thoughts), ..Message::default() };
                messages.push(message);
            }
        }
        Some(kind) => return Err(ApiError::unsupported(at, &format!("an item of type {kind:?} is not known here"))),
    }
    Ok(())
}

/// The assistant's message at the end, made if there is none.
fn assistant(messages: &mut Vec<Message>) -> &mut Message {
    if messages.last().is_none_or(|last| last.role != "assistant") {
        messages.push(Message { role: "assistant".into(), ..Message::default() });
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: ResponsesBody = body::json(request).await?;
    let is_stream = request.stream == Some(true);
    let mut running = server.submit(request.wanted()?).await?;
    let frame = Envelope { id: new_id("resp_"), created: now(), model: running.model.name.clone() };
    if is_stream {
        return Ok(sse::response(running, Items::new(frame)));
    }
    let (whole, done) = running.whole().await?;
    let mut output = Vec::new();
    if !whole.thinking.is_empty() {
        output.push(reasoning(&new_id("rs_"), &whole.thinking, "completed"));
    }
    if !whole.text.is_empty() || whole.calls.is_empty() {
        output.push(message(&new_id("msg_"), Some(&whole.text), status(&done)));
    }
    output.extend(whole.calls.iter().map(|call| function_call(&new_id("fc_"), call, "completed")));
    Ok(json_response(StatusCode::OK, &frame.json(&output, Some(&done))))
}

/// What every response object has.
pub(super) struct Envelope {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Envelope {
    /// The response; without `done` it is in progress.
    pub(super) fn json(&self, output: &[Value], done: Option<&Generated>) -> Value {
        let cut = done.filter(|done| is_cut(done)).map(|_| json!({"reason": "max_output_tokens"}));
        let usage = done.map(|done| {
            json!({
                "input_tokens": done.prompt,
                "input_tokens_details": {"cached_tokens": done.reused},
                "output_tokens": done.tokens.len(),
                "output_tokens_details": {"reasoning_tokens": done.thinking},
                "total_tokens": done.prompt + done.tokens.len(),
            })
        });
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": done.map_or("in_progress", status),
            "error": null,
            "incomplete_details": cut,
            "instructions": null,
            "metadata": {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "store": false,
            "temperature": null,
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "usage": usage,
        })
    }
}

fn status(done: &Generated) -> &'static str {
    if is_cut(done) { "incomplete" } else { "completed" }
}

pub(super) fn reasoning(id: &str, text: &str, status: &str) -> Value {
    let content = [json!({"type": "reasoning_text", "text": text})];
    json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status})
}

/// A message; without a text it has no content yet.
pub(super) fn message(id: &str, text: Option<&str>, status: &str) -> Value {
    let content: Vec<Value> = text.map(output_text).into_iter().collect();
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
}

pub(super) fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub(super) fn function_call(id: &str, call: &Call, status: &str) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    })
}
