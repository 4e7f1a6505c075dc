//! `POST /infill`, llama.cpp's: editors ask what stands between two pieces of a text.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;
use super::answer::{AnswerPart, is_cut, timings};
use super::body;
use super::error::{ApiError, Protocol, json_response};
use super::sse::{self, Frame, StreamWriter};
use crate::request::sampling;
use crate::{Generated, Prompt, Request};

/// Another file.
#[derive(Deserialize)]
struct ExtraFile {
    #[serde(default = "some_name")]
    filename: String,
    #[serde(default)]
    text: String,
}

/// llama.cpp's name for a file without one.
fn some_name() -> String {
    "tmp".to_owned()
}

pub(crate) async fn post(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    if !server.model()?.language.fills_gaps() {
        let message = "this model's tokenizer has no tokens for a gap, such as <|fim_prefix|>: it cannot fill one in";
        return Err(ApiError::unsupported("input_suffix", message));
    }
    let text = |given: Option<String>| given.unwrap_or_default();
    // the prompt is what was typed since the text before the gap was last sent
    let before = text(keys.get("input_prefix")?) + &text(keys.get("prompt")?);
    let files: Vec<ExtraFile> = keys.get("input_extra")?.unwrap_or_default();
    let files = files.into_iter().map(|file| (file.filename, file.text)).collect();
    let mut wanted = Request {
        prompt: Prompt::Infill { before, after: text(keys.get("input_suffix")?), files },
        max_tokens: keys.count(&["n_predict", "max_tokens"])?,
        ..Request::default()
    };
    sampling(&mut keys, &mut wanted)?;
    let is_stream = keys.get("stream")? == Some(true);
    server.tell_ignored("/infill", &keys);
    let mut running = server.submit(wanted).await?;
    let shape =
        Filled { model: running.model.name.clone(), prompt: running.prompt_tokens, stops: running.stops.clone() };
    if is_stream {
        return Ok(sse::response(running, shape));
    }
    let (whole, done) = running.whole().await?;
    Ok(json_response(StatusCode::OK, &shape.last(&whole.text, &done)))
}

/// What every object of an answer has.
struct Filled {
    model: String,
    /// Tokens of the prompt.
    prompt: usize,
    stops: Vec<String>,
}

impl Filled {
    fn piece(&self, text: &str) -> Value {
        json!({"index": 0, "content": text, "tokens": [], "stop": false, "id_slot": 0, "tokens_evaluated": self.prompt})
    }

    fn last(&self, text: &str, done: &Generated) -> Value {
        let stopping_word = done.stop_string.and_then(|i| self.stops.get(i)).cloned();
        let kind = match (is_cut(done), &stopping_word) {
            (true, _) => "limit",
            (false, Some(_)) => "word",
            (false, None) => "eos",
        };
        let mut last = self.piece(text);
        last["stop"] = true.into();
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

impl StreamWriter for Filled {
    fn begin(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        match part {
            AnswerPart::Text(text) => vec![Frame::data(&self.piece(&text))],
            AnswerPart::Done(done) => vec![Frame::data(&self.last("", &done))],
            AnswerPart::Failed(error) => vec![Frame::data(&error.json(Protocol::OpenAi))],
            _ => Vec::new(),
        }
    }
}
