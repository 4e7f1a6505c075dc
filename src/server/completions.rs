//! `POST /v1/completions`: a text that goes on as it stands, without the chat template. `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;
use super::answer::{AnswerPart, is_cut, timings, usage};
use super::body;
use super::chat_completions::{answers, tells_usage};
use super::error::{ApiError, Protocol, json_response};
use super::model::now;
use super::request::blocking;
use super::sse::{self, Frame, StreamWriter};
use crate::request::{new_id, sampling, schema_of};
use crate::{Generated, Prompt, Request};

/// Most `logprobs`.
const MOST_PROBABILITIES: usize = 20;

/// Most prompts of one request.
const MOST_PROMPTS: usize = 128;

/// Tokens that are made unless another number is wanted, as in OpenAI's own.
const DEFAULT_TOKENS: usize = 16;

/// The prompts of a body: a text, token ids, or a list of either.
fn prompts(given: Option<Value>) -> Result<Vec<Prompt>, ApiError> {
    let wrong = || ApiError::invalid("prompt: expected a text, token ids, or a list of them").at("prompt");
    let tokens = |ids: &[Value]| -> Option<Prompt> {
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        ids.iter().map(id).collect::<Option<Vec<u32>>>().map(Prompt::Tokens)
    };
    match given.ok_or_else(wrong)? {
        Value::String(text) => Ok(vec![Prompt::Text(text)]),
        Value::Array(items) if items.iter().all(Value::is_u64) => Ok(vec![tokens(&items).ok_or_else(wrong)?]),
        Value::Array(items) => {
            let prompt = |item: &Value| match item {
                Value::String(text) => Some(Prompt::Text(text.clone())),
                Value::Array(ids) => tokens(ids),
                _ => None,
            };
            items.iter().map(prompt).collect::<Option<Vec<Prompt>>>().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let unsupported = |parameter: &str, what: &str| Err(ApiError::unsupported(parameter, what));
    let prompts = prompts(keys.value("prompt"))?;
    let (is_stream, tells_usage) = (keys.get("stream")? == Some(true), tells_usage(&mut keys));
    let answers = answers(&mut keys)?;
    let echoes = keys.get("echo")?.unwrap_or(false);
    if keys.says("suffix") {
        return unsupported("suffix", "suffix: only what follows the prompt is given");
    }
    let probabilities = keys.count(&["logprobs"])?;
    if probabilities.is_some_and(|top| top > MOST_PROBABILITIES) {
        return unsupported("logprobs", "at most 20 tokens' probabilities are told");
    }
    if echoes && probabilities.is_some() {
        return unsupported("echo", "echo: the probabilities of a prompt are not told");
    }
    if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
        let found = prompts.len();
        return Err(
            ApiError::invalid(format!("prompt: expected 1 to {MOST_PROMPTS} prompts, found {found}")).at("prompt")
        );
    }
    let mut wanted = Request {
        probabilities,
        max_tokens: match keys.has("max_tokens") {
            // what is negative is up to the end of the context
            true => keys.count(&["max_tokens"])?,
            false => Some(DEFAULT_TOKENS),
        },
        json_schema: schema_of(&mut keys)?,
        ..Request::default()
    };
    sampling(&mut keys, &mut wanted)?;
    server.tell_ignored("/v1/completions", &keys);
    let mut shape = CompletionObject {
        id: new_id("cmpl-"),
        created: now(),
        model: server.model()?.name.clone(),
        index: 0,
        tells_usage: false,
        told: Probabilities::default(),
    };
    if is_stream {
        let [prompt] = <[Prompt; 1]>::try_from(prompts)
            .map_err(|_| ApiError::unsupported("prompt", "prompt: several prompts are not streamed"))?;
        if answers > 1 || echoes {
            return unsupported("n", "n, echo: a stream has one answer, and no prompt");
        }
        wanted.prompt = prompt;
        shape.tells_usage = tells_usage;
        return Ok(sse::response(server.submit(wanted).await?, shape));
    }
    let (mut choices, mut all, mut last) = (Vec::new(), Vec::new(), Value::Null);
    for prompt in prompts {
        let echo = match (&prompt, echoes) {
            (Prompt::Text(text), true) => text.clone(),
            (Prompt::Tokens(ids), true) => server.model()?.language.decode(ids),
            _ => String::new(),
        };
        wanted.prompt = prompt;
        for number in 0..answers {
            let mut running = server.submit(wanted.answer_number(number)).await?;
            let (whole, done) = running.whole().await?;
            shape.told = Probabilities::default();
            whole.probabilities.iter().for_each(|token| shape.told.push(token));
            shape.index = choices.len();
            last = shape.json(&format!("{echo}{}", whole.text), Some(&done));
            choices.push(last["choices"][0].take());
            all.push(done);
        }
    }
    last["choices"] = choices.into();
    last["usage"] = usage(&all);
    Ok(json_response(StatusCode::OK, &last))
}

/// What every `text_completion` object has.
struct CompletionObject {
    id: String,
    created: u64,
    model: String,
    /// Of the choice.
    index: usize,
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
            "choices": [{"index": self.index, "text": text, "logprobs": told, "finish_reason": finish}],
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
            AnswerPart::CallBegin { .. } | AnswerPart::CallArguments(_) | AnswerPart::Call(_) => Vec::new(),
            AnswerPart::Done(done) => {
                let mut last = self.json("", Some(&done));
                let mut frames = vec![Frame::data(&last)];
                if self.tells_usage {
                    last["choices"] = json!([]);
                    last["usage"] = usage(std::slice::from_ref(&done));
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
    /// Whether spellings of special tokens are those tokens.
    #[serde(default = "yes")]
    parse_special: bool,
}

fn yes() -> bool {
    true
}

/// `POST /tokenize`: `{"content": "..", "parse_special": true}` to `{"tokens": [..]}`.
pub(crate) async fn tokenize(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let request: TokenizeRequest = body::json(request).await?;
    let model = server.model()?;
    let TokenizeRequest { content, parse_special } = request;
    let tokens = blocking(move || Ok(model.language.tokens_of(&content, parse_special)?)).await?;
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
