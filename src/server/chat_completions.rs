//! `POST /v1/chat/completions`, OpenAI's chat.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde_json::{Value, json};

use super::answer::{AnswerPart, Call, is_cut, timings, usage};
use super::body;
use super::error::{ApiError, Protocol, json_response};
use super::model::now;
use super::request::blocking;
use super::sse::{self, Frame, StreamWriter};
use super::{ReasoningField, Server};
use crate::request::{BodyKeys, new_id};
use crate::{Generated, Request};

/// Most answers to one request.
pub(super) const MOST_ANSWERS: usize = 8;

/// How many answers are wanted.
pub(super) fn answers(keys: &mut BodyKeys) -> Result<usize, ApiError> {
    match keys.count(&["n"])? {
        None => Ok(1),
        Some(n @ 1..=MOST_ANSWERS) => Ok(n),
        Some(n) => Err(ApiError::unsupported("n", &format!("n: expected 1 to {MOST_ANSWERS} answers, found {n}"))),
    }
}

/// Whether the tokens are told at the end of a stream.
pub(super) fn tells_usage(keys: &mut BodyKeys) -> bool {
    keys.value("stream_options").is_some_and(|options| options["include_usage"] == true)
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let is_stream = keys.get("stream")?.unwrap_or(false);
    let (tells_usage, answers) = (tells_usage(&mut keys), answers(&mut keys)?);
    let tells_progress = keys.get("return_progress")?.unwrap_or(false);
    let wanted = Request::from_chat_keys(&mut keys)?;
    server.tell_ignored("/v1/chat/completions", &keys);
    let tells_probabilities = wanted.probabilities.is_some();
    let all = (0..answers).map(|index| wanted.answer_number(index)).collect();
    let mut running = server.submit_all(all).await?;
    let (id, created, model) = (new_id("chatcmpl-"), now(), running.model.name.clone());
    if is_stream {
        running.tells_progress = tells_progress;
        let chunks = Chunks::new(id, created, model, answers, tells_usage, server.options.reasoning);
        return Ok(sse::response(running, chunks));
    }
    let (mut choices, mut all) = (Vec::new(), Vec::new());
    loop {
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
        choices.push(json!({
            "index": choices.len(),
            "message": message,
            "logprobs": tells_probabilities.then(|| json!({"content": whole.probabilities, "refusal": null})),
            "finish_reason": finish_reason(&done, !whole.calls.is_empty()),
        }));
        all.push(done);
        if !running.go_on()? {
            break;
        }
    }
    let answer = json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage(&all, answers),
        "timings": all.last().map(timings),
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
    answers: usize,
    tells_usage: bool,
    reasoning: ReasoningField,
    /// The answers that are done; the number of them is the index of the one that is not.
    done: Vec<Generated>,
    /// Calls of this answer that began.
    calls: usize,
    /// Of the tokens whose text comes next.
    probabilities: Vec<Value>,
}

impl Chunks {
    pub(super) fn new(
        id: String,
        created: u64,
        model: String,
        answers: usize,
        tells_usage: bool,
        reasoning: ReasoningField,
    ) -> Self {
        let (done, calls, probabilities) = (Vec::new(), 0, Vec::new());
        Chunks { id, created, model, answers, tells_usage, reasoning, done, calls, probabilities }
    }

    fn chunk(&mut self, delta: Value, finish: Option<&str>) -> Value {
        let told = std::mem::take(&mut self.probabilities);
        let logprobs = (!told.is_empty()).then(|| json!({"content": told, "refusal": null}));
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": self.done.len(), "delta": delta, "logprobs": logprobs, "finish_reason": finish}],
        });
        if self.tells_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl StreamWriter for Chunks {
    fn waiting(&mut self) -> Option<Frame> {
        Some(Frame::data(&self.chunk(json!({}), None)))
    }

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
            AnswerPart::CallBegin { id, name } => {
                let mut delta = tool_call(&Call { id, name, arguments: String::new() });
                delta["index"] = self.calls.into();
                self.calls += 1;
                json!({"tool_calls": [delta]})
            }
            AnswerPart::CallArguments(piece) => {
                let index = self.calls.saturating_sub(1);
                json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            }
            // all of it is told
            AnswerPart::Call(_) | AnswerPart::Prompt(_) | AnswerPart::StopToken(_) => return Vec::new(),
            AnswerPart::Progress(progress) => {
                let mut chunk = self.chunk(json!({}), None);
                chunk["prompt_progress"] = json!({
                    "total": progress.total,
                    "cache": progress.reused,
                    "processed": progress.done,
                    "time_ms": u64::try_from(progress.time.as_millis()).unwrap_or(u64::MAX),
                });
                return vec![Frame::data(&chunk)];
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
                self.done.push(done);
                self.calls = 0;
                if self.done.len() < self.answers {
                    frames.extend(self.begin());
                    return frames;
                }
                frames.extend(Frame::end(last, self.tells_usage.then(|| usage(&self.done, self.answers))));
                return frames;
            }
            AnswerPart::Failed(error) => return vec![Frame::data(&error.json(Protocol::OpenAi))],
        };
        vec![Frame::data(&self.chunk(delta, None))]
    }
}
