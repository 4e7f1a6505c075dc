//! From a request that a protocol wrote down to an answer that is on its way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::Server;
use super::answer::Running;
use super::error::ApiError;
use super::metrics::InFlight;
use super::model::Model;
use super::worker::{EVENTS, Job, JobEvent, Refused};
use crate::request::{BodyKeys, wants_grammar};
use crate::{Prepared, Prompt, Request};

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
        self.submit_all(vec![request]).await
    }

    /// The same for several requests, which are answered one after the other: the first is put into the queue, each of the
    /// others by [`Running::go_on`]. All of them are checked before.
    pub(crate) async fn submit_all(self: &Arc<Self>, requests: Vec<Request>) -> Result<Running, ApiError> {
        let model = self.model()?;
        let in_flight = InFlight::new(self);
        // what would be refused anyway is not worth the tokenizer's time
        if self.queue.is_closed() {
            return Err(Refused::Stopping.into());
        }
        // a text may be read alone, for its probabilities or to be there later
        if requests.iter().any(|asked| asked.max_tokens == Some(0) && matches!(asked.prompt, Prompt::Chat(_))) {
            return Err(ApiError::invalid("at least one token must be wanted").at("max_tokens"));
        }
        let language = model.language.clone();
        // grammars are made on some of the threads, so that the others make other requests ready
        let turn = match requests.iter().any(wants_grammar) {
            true => self.grammars.clone().acquire_owned().await.ok(),
            false => None,
        };
        // axum drops this future when the client leaves
        let wanted = Wanted::default();
        let is_wanted = wanted.0.clone();
        let prepare = move || {
            let _turn = turn;
            let is_wanted = || !is_wanted.load(Ordering::Relaxed);
            requests.into_iter().map(|asked| Ok(language.prepare_while(asked, &is_wanted)?)).collect()
        };
        let prepared: Vec<Prepared> = blocking(prepare).await?;
        let first = |prepared: &Prepared| (prepared.prompt().len(), prepared.stop().to_vec());
        let (prompt_tokens, stops) = prepared.first().map(first).unwrap_or_default();
        let mut rest = prepared.into_iter();
        let events = self.enqueue(rest.next(), false)?;
        Ok(Running {
            server: self.clone(),
            model,
            events,
            rest,
            prompt_tokens,
            stops,
            tells_progress: false,
            _in_flight: in_flight,
        })
    }

    /// Puts what is ready into the queue, where who `goes_on` with a request always has a place.
    pub(super) fn enqueue(
        &self,
        prepared: Option<Prepared>,
        goes_on: bool,
    ) -> Result<mpsc::Receiver<JobEvent>, ApiError> {
        let prepared = prepared.ok_or_else(|| ApiError::invalid("there is no prompt").at("prompt"))?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let job = Job { prepared, events, since: Instant::now(), span: tracing::Span::current(), goes_on };
        self.queue.submit(job).inspect_err(|refused| {
            if *refused == Refused::Full {
                self.metrics.refused();
            }
        })?;
        Ok(receiver)
    }

    /// The tokens of a prompt.
    pub(crate) async fn tokens(self: &Arc<Self>, request: Request) -> Result<Vec<u32>, ApiError> {
        let language = self.model()?.language.clone();
        blocking(move || Ok(language.prompt_tokens(request)?)).await
    }
}

/// Says when it is dropped that its client has left.
#[derive(Default)]
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs what takes long on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |error| {
        tracing::error!("a request failed: {error}");
        ApiError::internal("the request could not be made ready; the server's log says why")
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
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
