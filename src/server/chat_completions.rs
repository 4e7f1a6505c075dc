//! `POST /v1/chat/completions`, OpenAI's chat.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{AnswerPart, Call, is_cut, timings, usage};
use super::body;
use super::error::{ApiError, Protocol, json_response};
use super::model::now;
use super::request::blocking;
use super::sse::{self, Frame, StreamWriter};
use super::{ReasoningField, Server};
use crate::request::new_id;
use crate::{Generated, Request};

/// What of the body is about the response; the rest is a [`Request`].
#[derive(Default, Deserialize)]
struct ResponseKeys {
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let body: Value = body::json(request).await?;
    let shape = ResponseKeys::deserialize(&body).map_err(|e| ApiError::invalid(e.to_string()))?;
    let is_stream = shape.stream.unwrap_or(false);
    let tells_usage = shape.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    let wanted = Request::from_openai_chat(body)?;
    let tells_probabilities = wanted.probabilities.is_some();
    let mut running = server.submit(wanted).await?;
    let (id, created, model) = (new_id("chatcmpl-"), now(), running.model.name.clone());
    if is_stream {
        return Ok(sse::response(running, Chunks::new(id, created, model, tells_usage, server.options.reasoning)));
    }
    let (whole, done) = running.whole().await?;
    let mut message = json!({"role": "assistant", "content": whole.text});
    if whole.text.is_empty() && !whole.calls.is_empty() {
        message["content"] = Value::Null;
    }
    if !whole.thinking.is_empty() {
        server.options.reasoning.put(&mut message, &whole.thinking);
    }
    if !whole.calls.is_empty() {
        message["tool_calls"] = whole.calls.iter().map(tool_call).collect();
    }
    let probabilities = tells_probabilities.then(|| json!({"content": whole.probabilities, "refusal": null}));
    let answer = json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": probabilities,
            "finish_reason": finish_reason(&done, !whole.calls.is_empty()),
        }],
        "usage": usage(&done),
        "timings": timings(&done),
    });
    Ok(json_response(StatusCode::OK, &answer))
}

/// `POST /apply-template`: a chat's body to `{"prompt": ".."}`, the text that the model would read.
pub(crate) async fn apply_template(
    server: &Arc<Server>,
    request: HttpRequest<Body>,
) -> Result<Response<Body>, ApiError> {
    let wanted = Request::from_openai_chat(body::json(request).await?)?;
    let language = server.model()?.language.clone();
    let prompt = blocking(move || Ok(language.rendered(wanted)?)).await?;
    Ok(json_response(StatusCode::OK, &json!({"prompt": prompt})))
}

fn tool_call(call: &Call) -> Value {
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

fn finish_reason(done: &Generated, has_calls: bool) -> &'static str {
    match (is_cut(done), has_calls) {
        (true, _) => "length",
        (false, true) => "tool_calls",
        (false, false) => "stop",
    }
}

/// An answer in `chat.completion.chunk`s.
pub(super) struct Chunks {
    id: String,
    created: u64,
    model: String,
    tells_usage: bool,
    reasoning: ReasoningField,
    calls: usize,
    /// Of the tokens whose text comes next.
    probabilities: Vec<Value>,
}

impl Chunks {
    pub(super) fn new(id: String, created: u64, model: String, tells_usage: bool, reasoning: ReasoningField) -> Self {
        Chunks { id, created, model, tells_usage, reasoning, calls: 0, probabilities: Vec::new() }
    }

    fn chunk(&mut self, delta: Value, finish: Option<&str>) -> Value {
        let told = std::mem::take(&mut self.probabilities);
        let logprobs = (!told.is_empty()).then(|| json!({"content": told, "refusal": null}));
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}],
        });
        if self.tells_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl StreamWriter for Chunks {
    fn begin(&mut self) -> Vec<Frame> {
        vec![Frame::data(&self.chunk(json!({"role": "assistant", "content": ""}), None))]
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        let delta = match part {
            AnswerPart::Thinking(_) if self.reasoning == ReasoningField::None => return Vec::new(),
            AnswerPart::Thinking(text) => {
                let mut delta = json!({});
                self.reasoning.put(&mut delta, &text);
                delta
            }
            AnswerPart::Text(text) => json!({"content": text}),
            AnswerPart::Call(call) => {
                let mut delta = tool_call(&call);
                delta["index"] = self.calls.into();
                self.calls += 1;
                json!({"tool_calls": [delta]})
            }
            AnswerPart::Probability(token) => {
                self.probabilities.push(token);
                return Vec::new();
            }
            AnswerPart::Done(done) => {
                let finish = finish_reason(&done, self.calls > 0);
                let mut last = self.chunk(json!({}), Some(finish));
                last["timings"] = timings(&done);
                let mut frames = vec![Frame::data(&last)];
                if self.tells_usage {
                    last["choices"] = json!([]);
                    last["usage"] = usage(&done);
                    frames.push(Frame::data(&last));
                }
                frames.push(Frame { name: None, data: "[DONE]".to_owned() });
                return frames;
            }
            AnswerPart::Failed(error) => return vec![Frame::data(&error.json(Protocol::OpenAi))],
        };
        vec![Frame::data(&self.chunk(delta, None))]
    }
}
