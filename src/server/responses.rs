//! `POST /v1/responses`, OpenAI's newer protocol.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde_json::{Value, json};

use super::Server;
use super::answer::{Call, is_cut};
use super::body;
use super::error::{ApiError, json_response};
use super::model::now;
use super::responses_input::{Asked, FREE_TEXT, ToolKind, asked};
use super::responses_stream::Items;
use super::sse;
use crate::request::new_id;
use crate::{Generated, Message, Prompt, Request};

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let is_stream = keys.get("stream")? == Some(true);
    let Asked { mut request, kinds, previous, is_kept } = asked(&mut keys)?;
    server.tell_ignored("/v1/responses", &keys);
    if let Some(id) = &previous {
        go_on_from(server, id, &mut request)?;
    }
    let history = match &request.prompt {
        Prompt::Chat(messages) if is_kept => Some(messages.clone()),
        _ => None,
    };
    let mut running = server.submit(request).await?;
    let frame = Envelope { id: new_id("resp_"), created: now(), model: running.model.name.clone(), previous, kinds };
    let kept = Kept { server: server.clone(), id: frame.id.clone(), history };
    if is_stream {
        return Ok(sse::response(running, Items::new(frame, Some(kept))));
    }
    let (whole, done) = running.whole().await?;
    let mut output = Vec::new();
    if !whole.thinking.is_empty() {
        output.push(reasoning(&new_id("rs_"), &whole.thinking, "completed"));
    }
    if !whole.text.is_empty() || whole.calls.is_empty() {
        output.push(message(&new_id("msg_"), Some(&whole.text), status(&done)));
    }
    output.extend(whole.calls.iter().map(|call| frame.call(&new_id("fc_"), call, "completed")));
    kept.keep(&whole.thinking, &whole.text, &whole.calls);
    Ok(json_response(StatusCode::OK, &frame.json(&output, Some(&done))))
}

/// Puts the conversation up to a response before what is asked now. Instructions are of one request alone.
fn go_on_from(server: &Server, id: &str, request: &mut Request) -> Result<(), ApiError> {
    let before = server.kept.get(id).ok_or_else(|| {
        let message = format!("there is no response {id:?} any more: send the whole history as input");
        ApiError::new(StatusCode::NOT_FOUND, message).code("previous_response_not_found").at("previous_response_id")
    })?;
    if let Prompt::Chat(messages) = &mut request.prompt {
        let at = messages.iter().take_while(|message| message.role == "system").count();
        messages.splice(at..at, before.into_iter().filter(|message| message.role != "system"));
    }
    Ok(())
}

/// Where a response is kept once it is whole, for the request that goes on from it.
pub(super) struct Kept {
    server: Arc<Server>,
    id: String,
    /// `None` where it is not to be kept.
    history: Option<Vec<Message>>,
}

impl Kept {
    pub(super) fn keep(self, thoughts: &str, text: &str, calls: &[Call]) {
        let Some(mut messages) = self.history else { return };
        let function = |call: &Call| json!({"name": call.name, "arguments": call.arguments});
        let call = |call: &Call| json!({"id": call.id, "type": "function", "function": function(call)});
        messages.push(Message {
            reasoning_content: (!thoughts.is_empty()).then(|| thoughts.to_owned()),
            tool_calls: (!calls.is_empty()).then(|| calls.iter().map(call).collect()),
            ..Message::new("assistant", text)
        });
        self.server.kept.keep(&self.id, messages);
    }
}

/// What every response object has.
pub(super) struct Envelope {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    /// The response that this one goes on from.
    pub(super) previous: Option<String>,
    /// How calls are told, where not as calls of functions.
    pub(super) kinds: HashMap<String, ToolKind>,
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
            "previous_response_id": self.previous,
            "store": false,
            "temperature": null,
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "usage": usage,
        })
    }
}

impl Envelope {
    /// A call as the tool's kind tells it.
    pub(super) fn call(&self, id: &str, call: &Call, status: &str) -> Value {
        let mut item = json!({"id": id, "call_id": call.id, "name": call.name, "status": status});
        match self.kinds.get(&call.name) {
            Some(ToolKind::Custom) => {
                item["type"] = "custom_tool_call".into();
                item["input"] = free_text(call).into();
            }
            other => {
                item["type"] = "function_call".into();
                item["arguments"] = call.arguments.clone().into();
                if let Some(ToolKind::Of(namespace)) = other {
                    item["namespace"] = namespace.clone().into();
                }
            }
        }
        item
    }
}

/// What a custom tool is given.
pub(super) fn free_text(call: &Call) -> String {
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
    match &arguments[FREE_TEXT] {
        Value::String(text) => text.clone(),
        // the model gave it another name
        _ => call.arguments.clone(),
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
