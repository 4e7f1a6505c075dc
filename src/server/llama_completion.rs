//! `POST /completion`, llama.cpp's own, which has an object of its own for answers: programs that were written for its server
//! before that spoke OpenAI's protocol.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde_json::{Value, json};

use super::Server;
use super::answer::{AnswerPart, Running, is_cut, timings};
use super::body;
use super::completions::MOST_PROMPTS;
use super::error::{ApiError, Protocol, json_response};
use super::sse::{self, Frame, StreamWriter};
use crate::request::{BodyKeys, MOST_PROBABILITIES, sampling, schema_of};
use crate::{Generated, Prompt, Request};

/// A prompt: a text, or a list of token ids and texts, which are tokenized one by one.
fn prompt(server: &Server, given: &Value) -> Result<Prompt, ApiError> {
    let wrong = || {
        let message = "prompt: expected a text, a list of token ids and texts, or a list of such prompts";
        ApiError::invalid(message).at("prompt")
    };
    match given {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        // with images beside it, which there are none of here
        Value::Object(keys) => match (keys.get("prompt_string"), keys.get("multimodal_data")) {
            (Some(Value::String(text)), None) => Ok(Prompt::Text(text.clone())),
            (Some(_), Some(Value::Array(data))) if data.is_empty() => prompt(server, &keys["prompt_string"]),
            (Some(_), Some(_)) => Err(ApiError::unsupported("prompt", "prompt: this model reads text")),
            _ => Err(wrong()),
        },
        Value::Array(items) => {
            let language = &server.model()?.language;
            let mut tokens = Vec::new();
            for item in items {
                match item {
                    Value::String(text) => tokens.extend(language.tokens_of(text, true)?),
                    _ => tokens.push(item.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?),
                }
            }
            Ok(Prompt::Tokens(tokens))
        }
        _ => Err(wrong()),
    }
}

/// The prompts of a body, and whether they came as a list of several: what answers them is one as well then.
fn prompts(server: &Server, given: Option<Value>) -> Result<(Vec<Prompt>, bool), ApiError> {
    let given = given.ok_or_else(|| ApiError::invalid("there is no prompt").at("prompt"))?;
    match &given {
        Value::Array(items) if !items.is_empty() && !items.iter().any(Value::is_number) => {
            if items.len() > MOST_PROMPTS {
                let message = format!("prompt: expected 1 to {MOST_PROMPTS} prompts, found {}", items.len());
                return Err(ApiError::invalid(message).at("prompt"));
            }
            let prompts: Result<Vec<Prompt>, ApiError> = items.iter().map(|item| prompt(server, item)).collect();
            Ok((prompts?, true))
        }
        one => Ok((vec![prompt(server, one)?], false)),
    }
}

/// Reads all of a body but its prompt.
fn asked(keys: &mut BodyKeys) -> Result<Request, ApiError> {
    let probabilities = keys.count(&["n_probs"])?.filter(|top| *top > 0);
    if probabilities.is_some_and(|top| top > MOST_PROBABILITIES) {
        return Err(ApiError::unsupported("n_probs", "at most 20 tokens' probabilities are told"));
    }
    // prompts are always kept for the next one
    keys.value("cache_prompt");
    let mut wanted = Request {
        probabilities,
        max_tokens: keys.count(&["n_predict", "max_tokens"])?,
        json_schema: schema_of(keys)?,
        ..Request::default()
    };
    sampling(keys, &mut wanted)?;
    Ok(wanted)
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let (mut prompts, is_list) = prompts(server, keys.value("prompt"))?;
    let wanted = asked(&mut keys)?;
    let (is_stream, tells_tokens) = (keys.get("stream")? == Some(true), keys.get("return_tokens")? == Some(true));
    if is_stream && is_list && prompts.len() > 1 {
        return Err(ApiError::unsupported("stream", "stream: the answers to several prompts come whole"));
    }
    server.tell_ignored("/completion", &keys);
    let all = prompts.drain(..).map(|prompt| Request { prompt, ..wanted.clone() }).collect();
    let mut running = server.submit_all(all).await?;
    let mut object = LlamaObject { tells_tokens, ..LlamaObject::of(&running) };
    if is_stream {
        return Ok(sse::response(running, object));
    }
    let mut answers = Vec::new();
    loop {
        let (whole, done) = running.whole().await?;
        object.probabilities = whole.probabilities;
        let mut answer = object.last(&whole.text, &done);
        answer["index"] = answers.len().into();
        answers.push(answer);
        if !running.go_on()? {
            break;
        }
    }
    Ok(json_response(StatusCode::OK, &if is_list { answers.into() } else { answers.swap_remove(0) }))
}

/// One answer in llama.cpp's form.
pub(super) async fn answer(mut running: Running, is_stream: bool) -> Result<Response<Body>, ApiError> {
    let mut object = LlamaObject::of(&running);
    if is_stream {
        return Ok(sse::response(running, object));
    }
    let (whole, done) = running.whole().await?;
    Ok(json_response(StatusCode::OK, &object.last(&whole.text, &done)))
}

/// What every object of an answer has.
struct LlamaObject {
    model: String,
    /// Tokens of the prompt.
    prompt: usize,
    stops: Vec<String>,
    /// Whether the tokens of the answer are told as well.
    tells_tokens: bool,
    /// Of the tokens that were not told yet.
    probabilities: Vec<Value>,
}

impl LlamaObject {
    fn of(running: &Running) -> Self {
        LlamaObject {
            model: running.model.name.clone(),
            prompt: running.prompt_tokens,
            stops: running.stops.clone(),
            tells_tokens: false,
            probabilities: Vec::new(),
        }
    }

    fn piece(&mut self, text: &str) -> Value {
        let mut piece = json!({
            "index": 0, "content": text, "tokens": [], "stop": false, "id_slot": 0, "tokens_evaluated": self.prompt,
        });
        if !self.probabilities.is_empty() {
            piece["completion_probabilities"] = std::mem::take(&mut self.probabilities).into();
        }
        piece
    }

    fn last(&mut self, text: &str, done: &Generated) -> Value {
        let stopping_word = done.stop_string.and_then(|i| self.stops.get(i)).cloned();
        let kind = match (is_cut(done), &stopping_word) {
            (true, _) => "limit",
            (false, Some(_)) => "word",
            (false, None) => "eos",
        };
        let mut last = self.piece(text);
        last["stop"] = true.into();
        last["tokens_evaluated"] = done.prompt.into();
        if self.tells_tokens {
            last["tokens"] = done.tokens.clone().into();
        }
        last["model"] = self.model.clone().into();
        last["tokens_predicted"] = done.tokens.len().into();
        last["tokens_cached"] = done.reused.into();
        last["stop_type"] = kind.into();
        last["stopping_word"] = stopping_word.unwrap_or_default().into();
        last["truncated"] = false.into();
        last["timings"] = timings(done);
        last
    }
}

impl StreamWriter for LlamaObject {
    fn begin(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        match part {
            AnswerPart::Text(text) => vec![Frame::data(&self.piece(&text))],
            AnswerPart::Done(done) => vec![Frame::data(&self.last("", &done))],
            AnswerPart::Probability(token) => {
                self.probabilities.push(token);
                Vec::new()
            }
            AnswerPart::Failed(error) => vec![Frame::data(&error.json(Protocol::OpenAi))],
            _ => Vec::new(),
        }
    }
}
