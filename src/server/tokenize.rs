//! `/tokenize` and `/detokenize`, llama.cpp's.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::Server;
use super::body;
use super::error::{ApiError, json_response};
use super::request::blocking;

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
    let content = blocking(move || Ok(model.language.text_of(&request.tokens)?)).await?;
    Ok(json_response(StatusCode::OK, &json!({"content": content})))
}
