//! `POST /v1/completions`: a text that goes on as it stands, without the chat template. `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;
use super::answer::{AnswerPart, is_cut, timings, usage};
use super::body;
use super::error::{ApiError, Protocol, json_response};
use super::model::now;
use super::request::blocking;
use super::sse::{self, Frame, StreamWriter};
use crate::request::{Sampling, json_schema, new_id, whole};
use crate::{Generated, Prompt, Request};

/// Most `logprobs`.
const MOST_PROBABILITIES: u64 = 20;

/// Tokens that are made unless another number is wanted, as in OpenAI's own.
const DEFAULT_TOKENS: u64 = 16;

#[derive(Deserialize)]
struct CompletionBody {
    prompt: PromptField,
    #[serde(flatten)]
    sampling: Sampling,
    stream: Option<bool>,
    stream_options: Option<Value>,
    max_tokens: Option<u64>,
    response_format: Option<Value>,
    n: Option<u64>,
    best_of: Option<u64>,
    echo: Option<bool>,
    suffix: Option<String>,
    logprobs: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a prompt: a text, or token ids")]
enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: CompletionBody = body::json(request).await?;
    let unsupported = |parameter: &str, what: &str| Err(ApiError::unsupported(parameter, what));
    if request.n.is_some_and(|n| n != 1) || request.best_of.is_some_and(|n| n != 1) {
        return unsupported("n", "one answer is given per request");
    }
    if request.echo == Some(true) || request.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return unsupported("echo", "only what follows the prompt is given");
    }
    if request.logprobs.is_some_and(|top| top > MOST_PROBABILITIES) {
        return unsupported("logprobs", "at most 20 tokens' probabilities are told");
    }
    let prompt = match request.prompt {
        PromptField::Text(text) => Prompt::Text(text),
        PromptField::Tokens(ids) => Prompt::Tokens(ids),
        PromptField::Texts(mut texts) if texts.len() == 1 => Prompt::Text(texts.remove(0)),
        PromptField::Texts(_) => return unsupported("prompt", "one prompt is possible per request"),
    };
    let mut wanted = Request {
        prompt,
        probabilities: request.logprobs.map(whole),
        max_tokens: Some(whole(request.max_tokens.unwrap_or(DEFAULT_TOKENS))),
        json_schema: json_schema(request.response_format.as_ref(), "response_format")?,
        ..Request::default()
    };
    request.sampling.fill(&mut wanted)?;
    let mut running = server.submit(wanted).await?;
    let mut shape = CompletionObject {
        id: new_id("cmpl-"),
        created: now(),
        model: running.model.name.clone(),
        tells_usage: false,
        told: Probabilities::default(),
    };
    if request.stream == Some(true) {
        shape.tells_usage = request.stream_options.is_some_and(|options| options["include_usage"] == true);
        return Ok(sse::response(running, shape));
    }
    let (whole, done) = running.whole().await?;
    whole.probabilities.iter().for_each(|token| shape.told.push(token));
    let mut answer = shape.json(&whole.text, Some(&done));
    answer["usage"] = usage(&done);
    Ok(json_response(StatusCode::OK, &answer))
}

/// What every `text_completion` object has.
struct CompletionObject {
    id: String,
    created: u64,
    model: String,
    tells_usage: bool,
    /// Of the tokens whose text comes next.
    told: Probabilities,
}

/// OpenAI's `logprobs` of completions: lists side by side.
#[derive(Default)]
struct Probabilities {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters of the tokens so far.
    characters: usize,
}

impl Probabilities {
    /// Adds a token as a chat tells it.
    fn push(&mut self, token: &Value) {
        let text = |token: &Value| token["token"].as_str().unwrap_or_default().to_owned();
        let top = token["top_logprobs"].as_array().into_iter().flatten();
        self.top.push(Value::Object(top.map(|token| (text(token), token["logprob"].clone())).collect()));
        self.tokens.push(token["token"].clone());
        self.logprobs.push(token["logprob"].clone());
        self.offsets.push(self.characters);
        self.characters += text(token).chars().count();
    }

    /// What was added since the last time.
    fn take(&mut self) -> Value {
        let characters = self.characters;
        let told = std::mem::take(self);
        self.characters = characters;
        match told.tokens.is_empty() {
            true => Value::Null,
            false => json!({
                "tokens": told.tokens, "token_logprobs": told.logprobs, "top_logprobs": told.top,
                "text_offset": told.offsets,
            }),
        }
    }
}

impl CompletionObject {
    fn json(&mut self, text: &str, done: Option<&Generated>) -> Value {
        let told = self.told.take();
        let finish = done.map(|done| if is_cut(done) { "length" } else { "stop" });
        let mut answer = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "text": text, "logprobs": told, "finish_reason": finish}],
        });
        if let Some(done) = done {
            answer["timings"] = timings(done);
        }
        answer
    }
}

impl StreamWriter for CompletionObject {
    fn begin(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        match part {
            AnswerPart::Text(text) | AnswerPart::Thinking(text) => vec![Frame::data(&self.json(&text, None))],
            AnswerPart::Probability(token) => {
                self.told.push(&token);
                Vec::new()
            }
            AnswerPart::Call(_) => Vec::new(),
            AnswerPart::Done(done) => {
                let mut last = self.json("", Some(&done));
                let mut frames = vec![Frame::data(&last)];
                if self.tells_usage {
                    last["choices"] = json!([]);
                    last["usage"] = usage(&done);
                    frames.push(Frame::data(&last));
                }
                frames.push(Frame { name: None, data: "[DONE]".to_owned() });
                frames
            }
            AnswerPart::Failed(error) => vec![Frame::data(&error.json(Protocol::OpenAi))],
        }
    }
}

#[derive(Deserialize)]
struct TokenizeRequest {
    content: String,
}

/// `POST /tokenize`: `{"content": ".."}` to `{"tokens": [..]}`.
pub(crate) async fn tokenize(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: TokenizeRequest = body::json(request).await?;
    let tokens = server.tokens(Request::text(request.content)).await?;
    Ok(json_response(StatusCode::OK, &json!({"tokens": tokens})))
}

#[derive(Deserialize)]
struct DetokenizeRequest {
    tokens: Vec<u32>,
}

/// `POST /detokenize`: `{"tokens": [..]}` to `{"content": ".."}`.
pub(crate) async fn detokenize(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: DetokenizeRequest = body::json(request).await?;
    let model = server.model()?;
    let content = blocking(move || Ok(model.language.decode(&request.tokens))).await?;
    Ok(json_response(StatusCode::OK, &json!({"content": content})))
}
