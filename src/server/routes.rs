//! Which path does what, and what every answer has: a request's id, and headers for browsers.

use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use tracing::Instrument;

use super::error::{ApiError, Protocol, json_response};
use super::model::Model;
use super::{
    Server, auth, chat_completions, completions, infill, llama_completion, machine, messages, ollama, responses,
    tokenize,
};
use crate::request::new_id;

const OPENAPI: &str = include_str!("openapi.json");

/// Paths with their methods, for requests with another method.
const PATHS: [(&str, &str); 24] = [
    ("/", "GET, HEAD"),
    ("/health", "GET, HEAD"),
    ("/metrics", "GET"),
    ("/machine", "GET"),
    ("/openapi.json", "GET"),
    ("/v1/models", "GET"),
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/messages", "POST"),
    ("/v1/messages/count_tokens", "POST"),
    ("/completion", "POST"),
    ("/completions", "POST"),
    ("/infill", "POST"),
    ("/apply-template", "POST"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/api/chat", "POST"),
    ("/api/generate", "POST"),
    ("/api/show", "POST"),
    ("/api/tags", "GET"),
    ("/api/ps", "GET"),
    ("/api/version", "GET, HEAD"),
    ("/v1/models/{id}", "GET"),
];

/// Longest request id that is taken over from a caller.
const LONGEST_ID: usize = 128;

/// Every request.
pub(crate) async fn handle(server: Arc<Server>, request: Request<Body>) -> Response<Body> {
    let since = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let protocol = match path.as_str() {
        path if path.starts_with("/v1/messages") => Protocol::Anthropic,
        path if path.starts_with("/api/") => Protocol::Ollama,
        _ => Protocol::OpenAi,
    };
    let client = request.headers().get(header::USER_AGENT).and_then(|client| client.to_str().ok());
    let client = client.unwrap_or("-").to_owned();
    let id = request.headers().get("x-request-id").cloned().filter(|id| id.len() <= LONGEST_ID);
    let id = id.or_else(|| HeaderValue::from_str(&new_id("req_")).ok());
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    let id_text = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-");
    let span = tracing::info_span!("request", id = id_text, client, path);
    let outcome = route(&server, request).instrument(span.clone()).await;
    let refused = outcome.as_ref().err().map(|error| error.message().to_owned());
    let mut response = outcome.unwrap_or_else(|error| error.response(protocol));
    let status = response.status().as_u16();
    let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| match refused {
        Some(reason) => tracing::warn!(%method, status, milliseconds, reason, "refused"),
        // what watches the server asks all the time
        None if matches!(path.as_str(), "/health" | "/metrics") => {}
        // a stream is only begun by now
        None => tracing::info!(%method, status, milliseconds, "answered"),
    });
    let headers = response.headers_mut();
    if let Some(id) = id {
        headers.insert("x-request-id", id.clone());
        // Anthropic's name for it
        headers.insert("request-id", id);
    }
    if let Some(origin) = origin.as_deref().and_then(|origin| auth::allowed_origin(&server.options, origin)) {
        allow(headers, origin);
    }
    response
}

/// Lets a page of `origin` read the answer.
fn allow(headers: &mut HeaderMap, origin: &str) {
    if let Ok(origin) = HeaderValue::from_str(origin) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    // `*` does not stand for Authorization
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, *"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
}

async fn route(server: &Arc<Server>, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let path = match path.strip_suffix('/') {
        Some(path) if !path.is_empty() => path,
        _ => path.as_str(),
    };
    if method == Method::OPTIONS {
        // a browser asks before it calls, without the key
        auth::check(&server.options, request.headers(), false)?;
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    // the page asks for the key itself; whoever watches the server needs none
    let needs_key = !matches!(path, "/" | "/health");
    auth::check(&server.options, request.headers(), needs_key)?;
    match (method.as_str(), path) {
        ("GET" | "HEAD", "/") => Ok(page(request.headers())),
        ("GET" | "HEAD", "/health") => Ok(health(server)),
        ("GET", "/metrics") => Ok(text("text/plain; version=0.0.4", server.metrics.text(server.queue.depth()))),
        ("GET", "/machine") => machine::get(server),
        ("GET", "/openapi.json") => Ok(text("application/json", OPENAPI.to_owned())),
        ("GET", "/v1/models") => {
            let models: Vec<Value> = server.model.get().map(|model| describe(model)).into_iter().collect();
            Ok(json_response(StatusCode::OK, &json!({"object": "list", "data": models})))
        }
        ("GET", path) if path.starts_with("/v1/models/") => {
            // a name with a slash comes escaped
            let id = percent_decode_str(&path["/v1/models/".len()..]).decode_utf8_lossy();
            match server.model.get().filter(|model| model.name == id) {
                Some(model) => Ok(json_response(StatusCode::OK, &describe(model))),
                None => {
                    let message = format!("there is no model {id:?}");
                    Err(ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found").at("model"))
                }
            }
        }
        ("POST", "/v1/chat/completions") => chat_completions::post(server, request).await,
        ("POST", "/v1/completions") => completions::post(server, request).await,
        ("POST", "/v1/responses") => responses::post(server, request).await,
        ("POST", "/v1/messages") => messages::post(server, request).await,
        ("POST", "/v1/messages/count_tokens") => messages::count_tokens(server, request).await,
        ("POST", "/completion" | "/completions") => llama_completion::post(server, request).await,
        ("POST", "/infill") => infill::post(server, request).await,
        ("POST", "/apply-template") => chat_completions::apply_template(server, request).await,
        ("POST", "/tokenize") => tokenize::tokenize(server, request).await,
        ("POST", "/detokenize") => tokenize::detokenize(server, request).await,
        ("POST", "/api/chat") => ollama::chat(server, request).await,
        ("POST", "/api/generate") => ollama::generate(server, request).await,
        ("POST", "/api/show") => ollama::show(server, request).await,
        ("GET", "/api/tags" | "/api/ps") => Ok(ollama::models(server)),
        ("GET" | "HEAD", "/api/version") => Ok(ollama::version()),
        _ => Err(nothing_there(&method, path)),
    }
}

fn nothing_there(method: &Method, path: &str) -> ApiError {
    if let Some((_, right)) = PATHS.iter().find(|(known, _)| *known == path) {
        let message = format!("{path} is for {right}, not {method}");
        return ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).allow(right);
    }
    let what = [("embed", "embeddings"), ("audio", "audio"), ("images", "images"), ("rerank", "rerankers")];
    let message = match what.iter().find(|(part, _)| path.contains(part)) {
        Some((_, what)) => format!("{path}: this model reads and writes text; there are no {what}"),
        None => format!("there is nothing at {path}"),
    };
    ApiError::new(StatusCode::NOT_FOUND, message)
}

fn health(server: &Server) -> Response<Body> {
    let (status, word) = match (server.model.get(), server.queue.is_closed()) {
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (None, false) => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        (Some(_), false) => (StatusCode::OK, "ok"),
    };
    json_response(status, &json!({"status": word}))
}

fn describe(model: &Model) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "flashflood",
        "context_length": model.language.context(),
        "status": "ready",
    })
}

/// The page, compressed for a browser that takes it so: phones read it over the air.
fn page(asked: &HeaderMap) -> Response<Body> {
    static PACKED: OnceLock<Vec<u8>> = OnceLock::new();
    let accepted = asked.get(header::ACCEPT_ENCODING).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    let takes_gzip = accepted.split(',').any(|coding| coding.trim() == "gzip");
    let mut response = text("text/html; charset=utf-8", String::new());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(flashflood_page::POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    *response.body_mut() = match takes_gzip {
        true => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Body::from(PACKED.get_or_init(|| packed(flashflood_page::HTML)).as_slice())
        }
        false => Body::from(flashflood_page::HTML),
    };
    response
}

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).expect("memory takes everything")
}

fn text(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_document_has_every_path_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let methods = |item: &Value| -> Vec<String> {
            let keys = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            keys.map(|key| key.to_ascii_uppercase()).collect()
        };
        let told = document["paths"].as_object().unwrap().iter();
        let mut told: Vec<(&str, String)> =
            told.map(|(path, item)| (path.as_str(), methods(item).join(", "))).collect();
        let mut known = PATHS.map(|(path, methods)| (path, methods.to_owned())).to_vec();
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);
    }
}
