//! `POST /v1/completions`: a text that goes on as it stands, without the chat template.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde_json::Value;

use super::Server;
use super::answer::{AnswerPart, usage};
use super::body;
use super::chat_completions::{answers, tells_usage};
use super::completion_object::{CompletionChunks, CompletionObject, Told};
use super::error::{ApiError, json_response};
use super::model::now;
use super::sse;
use crate::request::{BodyKeys, MOST_PROBABILITIES, new_id, sampling, schema_of};
use crate::{Prompt, Request};

/// Most prompts of one request.
pub(super) const MOST_PROMPTS: usize = 128;

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

/// What every prompt of a request has in common.
struct Asked {
    prompts: Vec<Prompt>,
    answers: usize,
    echoes: bool,
    tells_usage: bool,
    is_stream: bool,
    /// All but the prompt.
    request: Request,
}

/// Reads the body; keys that nobody knows are left.
fn asked(keys: &mut BodyKeys) -> Result<Asked, ApiError> {
    let mut prompts = prompts(keys.value("prompt"))?;
    if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
        let found = prompts.len();
        return Err(
            ApiError::invalid(format!("prompt: expected 1 to {MOST_PROMPTS} prompts, found {found}")).at("prompt")
        );
    }
    let echoes = keys.get("echo")?.unwrap_or(false);
    let suffix: Option<String> = keys.get("suffix")?;
    if let Some(suffix) = suffix.filter(|suffix| !suffix.is_empty()) {
        if echoes {
            return Err(ApiError::unsupported("echo", "echo: with a suffix only what stands before it is given"));
        }
        for prompt in &mut prompts {
            let Prompt::Text(before) = prompt else {
                return Err(ApiError::invalid("prompt: expected a text before a suffix, found token ids").at("prompt"));
            };
            let (before, after) = (std::mem::take(before), suffix.clone());
            *prompt = Prompt::Infill { before, after, files: Vec::new() };
        }
    }
    let probabilities = keys.count(&["logprobs"])?;
    if probabilities.is_some_and(|top| top > MOST_PROBABILITIES) {
        return Err(ApiError::unsupported("logprobs", "at most 20 tokens' probabilities are told"));
    }
    let mut request = Request {
        probabilities,
        prompt_probabilities: echoes && probabilities.is_some(),
        max_tokens: match keys.has("max_tokens") {
            // what is negative is up to the end of the context
            true => keys.count(&["max_tokens"])?,
            false => Some(DEFAULT_TOKENS),
        },
        json_schema: schema_of(keys)?,
        ..Request::default()
    };
    sampling(keys, &mut request)?;
    let (answers, is_stream) = (answers(keys)?, keys.get("stream")? == Some(true));
    Ok(Asked { prompts, answers, echoes, tells_usage: tells_usage(keys), is_stream, request })
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let Asked { prompts, answers, echoes, tells_usage, is_stream, request } = asked(&mut keys)?;
    server.tell_ignored("/v1/completions", &keys);
    let model = server.model()?;
    let echo = |prompt: &Prompt| match prompt {
        Prompt::Text(text) if echoes => text.clone(),
        Prompt::Tokens(ids) if echoes => model.language.decode(ids),
        _ => String::new(),
    };
    let echoed: Vec<String> = prompts.iter().map(echo).collect();
    let of_prompt = |prompt: Prompt| Request { prompt, ..request.clone() };
    let all = prompts.into_iter().map(of_prompt);
    let all = all.flat_map(|request| (0..answers).map(|number| request.answer_number(number)).collect::<Vec<_>>());
    let mut running = server.submit_all(all.collect()).await?;
    let shape = CompletionObject { id: new_id("cmpl-"), created: now(), model: model.name.clone() };
    let told = Told::new(request.prompt_probabilities);
    if is_stream {
        let chunks = CompletionChunks { shape, answers, echoed, told, tells_usage, done: Vec::new() };
        return Ok(sse::response(running, chunks));
    }
    let (mut choices, mut all) = (Vec::new(), Vec::new());
    let mut last = loop {
        let (mut text, mut told) = (echoed[choices.len() / answers].clone(), told.clone());
        let done = loop {
            match running.next().await {
                AnswerPart::Text(piece) | AnswerPart::Thinking(piece) => text.push_str(&piece),
                AnswerPart::Done(done) => break done,
                AnswerPart::Failed(error) => return Err(error),
                part => told.push(&part),
            }
        };
        let mut last = shape.json(choices.len(), &text, told.take(), Some(&done));
        choices.push(last["choices"][0].take());
        all.push(done);
        if !running.go_on()? {
            break last;
        }
    };
    last["choices"] = choices.into();
    last["usage"] = usage(&all, answers);
    Ok(json_response(StatusCode::OK, &last))
}
