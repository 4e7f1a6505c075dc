//! `POST /infill`, llama.cpp's: editors ask what stands between two pieces of a text.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response};
use serde::Deserialize;

use super::Server;
use super::error::ApiError;
use super::{body, llama_completion};
use crate::request::sampling;
use crate::{Prompt, Request};

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
    let running = server.submit(wanted).await?;
    llama_completion::answer(running, is_stream).await
}
