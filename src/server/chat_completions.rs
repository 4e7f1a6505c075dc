//! `POST /v1/chat/completions`, OpenAI's chat.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Server;
use super::answer::{Call, Part};
use super::body;
use super::error::{ApiError, Protocol, json_response};
use super::fields::{Sampling, ToolChoice, json_schema, thinks};
use super::model::now;
use super::request::{Prompt, Wanted, new_id};
use super::sse::{self, Dialect, Frame};
use super::worker::Done;
use crate::text::Message;

/// Most `top_logprobs`, as in OpenAI's own.
const MOST_PROBABILITIES: usize = 20;

#[derive(Deserialize)]
struct Request {
    messages: Vec<Message>,
    #[serde(flatten)]
    sampling: Sampling,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<Value>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: Option<Map<String, Value>>,
    n: Option<u64>,
    // what follows means something that is not done here
    logit_bias: Option<Map<String, Value>>,
    functions: Option<Value>,
    function_call: Option<Value>,
    audio: Option<Value>,
    modalities: Option<Vec<String>>,
    web_search_options: Option<Value>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Request {
    fn wanted(self) -> Result<Wanted, ApiError> {
        let unsupported = |parameter: &str, what: &str| Err(ApiError::unsupported(parameter, what));
        if self.n.is_some_and(|n| n != 1) {
            return unsupported("n", "one answer is given per request");
        }
        if self.logit_bias.is_some_and(|bias| !bias.is_empty()) {
            return unsupported("logit_bias", "tokens cannot be weighted");
        }
        for (parameter, is_there) in [
            ("functions", self.functions.is_some_and(|value| !value.is_null())),
            ("function_call", self.function_call.is_some_and(|value| !value.is_null())),
        ] {
            if is_there {
                return unsupported(parameter, "functions are called through tools and tool_choice");
            }
        }
        let is_audio = self.modalities.is_some_and(|kinds| kinds.iter().any(|kind| kind != "text"));
        if is_audio || self.audio.is_some_and(|value| !value.is_null()) {
            return unsupported("modalities", "this model writes text");
        }
        if self.web_search_options.is_some_and(|value| !value.is_null()) {
            return unsupported("web_search_options", "there is no web search here");
        }
        let probabilities = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (_, Some(top)) if top > MOST_PROBABILITIES => {
                return unsupported("top_logprobs", "at most 20 tokens' probabilities are told");
            }
            (false, Some(1..)) => return unsupported("top_logprobs", "top_logprobs needs logprobs: true"),
            (wanted, top) => wanted.then_some(top.unwrap_or(0)),
        };
        let mut template = Map::new();
        if let Some(thinks) = thinks(self.reasoning_effort.as_deref())? {
            template.insert("enable_thinking".to_owned(), thinks.into());
            template.insert("reasoning_effort".to_owned(), self.reasoning_effort.into());
        }
        template.extend(self.chat_template_kwargs.unwrap_or_default());
        Ok(Wanted {
            prompt: Prompt::Chat(self.messages),
            sampling: self.sampling,
            tools: self.tools.unwrap_or_default(),
            choice: ToolChoice::of(self.tool_choice.as_ref())?,
            one_call: self.parallel_tool_calls == Some(false),
            json: json_schema(self.response_format.as_ref(), "response_format")?,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            probabilities,
            template,
        })
    }
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: Request = body::json(request).await?;
    let is_stream = request.stream.unwrap_or(false);
    let tells_usage = request.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false);
    let wanted = request.wanted()?;
    let tells_probabilities = wanted.probabilities.is_some();
    let mut running = server.submit(wanted).await?;
    let (id, created, model) = (new_id("chatcmpl-"), now(), running.model.name.clone());
    if is_stream {
        return Ok(sse::response(running, Chunks::new(id, created, model, tells_usage)));
    }
    let (whole, done) = running.whole().await?;
    let mut message = json!({"role": "assistant", "content": whole.text});
    if whole.text.is_empty() && !whole.calls.is_empty() {
        message["content"] = Value::Null;
    }
    if !whole.thinking.is_empty() {
        message["reasoning_content"] = whole.thinking.into();
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
        "usage": done.usage(),
        "timings": done.timings(),
    });
    Ok(json_response(StatusCode::OK, &answer))
}

fn tool_call(call: &Call) -> Value {
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

fn finish_reason(done: &Done, has_calls: bool) -> &'static str {
    match (done.is_cut(), has_calls) {
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
    calls: usize,
    /// Of the tokens whose text comes next.
    probabilities: Vec<Value>,
}

impl Chunks {
    pub(super) fn new(id: String, created: u64, model: String, tells_usage: bool) -> Self {
        Chunks { id, created, model, tells_usage, calls: 0, probabilities: Vec::new() }
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

impl Dialect for Chunks {
    fn begin(&mut self) -> Vec<Frame> {
        vec![Frame::data(&self.chunk(json!({"role": "assistant", "content": ""}), None))]
    }

    fn part(&mut self, part: Part) -> Vec<Frame> {
        let delta = match part {
            Part::Thinking(text) => json!({"reasoning_content": text}),
            Part::Text(text) => json!({"content": text}),
            Part::Call(call) => {
                let mut delta = tool_call(&call);
                delta["index"] = self.calls.into();
                self.calls += 1;
                json!({"tool_calls": [delta]})
            }
            Part::Probability(token) => {
                self.probabilities.push(token);
                return Vec::new();
            }
            Part::Done(done) => {
                let finish = finish_reason(&done, self.calls > 0);
                let mut last = self.chunk(json!({}), Some(finish));
                last["timings"] = done.timings();
                let mut frames = vec![Frame::data(&last)];
                if self.tells_usage {
                    last["choices"] = json!([]);
                    last["usage"] = done.usage();
                    frames.push(Frame::data(&last));
                }
                frames.push(Frame { name: None, data: "[DONE]".to_owned() });
                return frames;
            }
            Part::Failed(error) => return vec![Frame::data(&error.json(Protocol::OpenAi))],
        };
        vec![Frame::data(&self.chunk(delta, None))]
    }
}
