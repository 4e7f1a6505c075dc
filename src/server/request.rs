//! From a request that a protocol wrote down to an answer that is on its way.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::Server;
use super::answer::Running;
use super::error::ApiError;
use super::metrics::InFlight;
use super::model::Model;
use super::worker::{EVENTS, Job, Refused};
use crate::Request;
use crate::request::BodyKeys;

impl Server {
    /// The model, once it is loaded.
    pub(crate) fn model(&self) -> Result<Arc<Model>, ApiError> {
        let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
        let loading = || ApiError::new(status, "the model is being loaded; /health tells when it is").code("loading");
        self.model.get().cloned().ok_or_else(loading)
    }

    /// Says in the log which fields of a body nobody takes, each once.
    pub(crate) fn tell_ignored(&self, path: &str, keys: &BodyKeys) {
        // what says nothing about the answer
        const KNOWN: [&str; 16] = [
            "model",
            "user",
            "metadata",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "store",
            "include",
            "prompt_cache_retention",
            "context_management",
            "betas",
            "anthropic_version",
            "client_metadata",
            "truncation",
            "stream_options",
            "cache_control",
        ];
        // the set is whole after every insert
        let mut told = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.rest().filter(|key| !KNOWN.contains(key)) {
            // callers must not fill it
            if told.len() < 1000 && told.insert(format!("{path} {key}")) {
                tracing::info!("{path}: the field {key:?} is not known here and passed over");
            }
        }
    }

    /// Puts a request into the queue; its answer comes in pieces.
    pub(crate) async fn submit(self: &Arc<Self>, request: Request) -> Result<Running, ApiError> {
        let since = Instant::now();
        let model = self.model()?;
        let in_flight = InFlight::new(self);
        // what would be refused anyway is not worth the tokenizer's time
        if self.queue.is_closed() {
            return Err(Refused::Stopping.into());
        }
        if request.max_tokens == Some(0) {
            return Err(ApiError::invalid("at least one token must be wanted").at("max_tokens"));
        }
        let (events, receiver) = mpsc::channel(EVENTS);
        let language = model.language.clone();
        let prepared = blocking(move || Ok(language.prepare(request)?)).await?;
        let (prompt_tokens, stops) = (prepared.prompt().len(), prepared.stop().to_vec());
        let span = tracing::Span::current();
        self.queue.submit(Job { prepared, events, since, span }).inspect_err(|refused| {
            if *refused == Refused::Full {
                self.metrics.refused();
            }
        })?;
        Ok(Running::new(model, receiver, prompt_tokens, stops, in_flight))
    }

    /// The tokens of a prompt.
    pub(crate) async fn tokens(self: &Arc<Self>, request: Request) -> Result<Vec<u32>, ApiError> {
        let language = self.model()?.language.clone();
        blocking(move || Ok(language.prompt_tokens(request)?)).await
    }
}

/// Runs what takes long on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::internal(e.to_string()))?
}

/// A function as OpenAI's chat has it.
pub(super) fn function(name: Option<&Value>, description: Option<&Value>, parameters: Option<&Value>) -> Value {
    let mut function = Map::new();
    for (key, value) in [("name", name), ("description", description), ("parameters", parameters)] {
        if let Some(value) = value {
            function.insert(key.to_owned(), value.clone());
        }
    }
    serde_json::json!({"type": "function", "function": function})
}
