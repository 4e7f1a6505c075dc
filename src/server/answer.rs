//! An answer on its way from the engine to a client, before a protocol writes it down.

use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Server;
use super::error::ApiError;
use super::metrics::InFlight;
use super::model::Model;
use super::request::new_id;
use super::worker::{Done, JobEvent};
use crate::generate::{Event, Finish};
use crate::session::LogProbabilities;

/// A request that is in the queue or computed. Dropping it gives the request up.
pub(crate) struct Running {
    server: Arc<Server>,
    pub(crate) model: Arc<Model>,
    events: mpsc::Receiver<JobEvent>,
    pub(crate) prompt_tokens: usize,
    pub(crate) stops: Vec<String>,
    /// Ids and arguments of the calls so far.
    calls: Vec<(String, String)>,
    text: String,
    _in_flight: InFlight,
}

/// A piece of an answer.
pub(crate) enum Part {
    Thinking(String),
    Text(String),
    Call(Call),
    /// A token of the answer as OpenAI's `logprobs.content` has it.
    Probability(Value),
    /// The last one, unless it failed.
    Done(Done),
    /// The last one.
    Failed(ApiError),
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    /// A JSON object.
    pub(crate) arguments: String,
}

/// An answer from its beginning to its end.
#[derive(Default)]
pub(crate) struct Whole {
    pub(crate) thinking: String,
    pub(crate) text: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) probabilities: Vec<Value>,
}

impl Running {
    pub(crate) fn new(
        server: Arc<Server>,
        model: Arc<Model>,
        events: mpsc::Receiver<JobEvent>,
        prompt_tokens: usize,
        stops: Vec<String>,
        in_flight: InFlight,
    ) -> Self {
        let (calls, text) = (Vec::new(), String::new());
        Running { server, model, events, prompt_tokens, stops, calls, text, _in_flight: in_flight }
    }

    /// The next piece. After [`Part::Done`] and [`Part::Failed`] there is none.
    pub(crate) async fn next(&mut self) -> Part {
        loop {
            return match self.events.recv().await {
                Some(JobEvent::Part(Event::Thinking(text))) => Part::Thinking(text),
                Some(JobEvent::Part(Event::Text(text))) => {
                    self.text.push_str(&text);
                    Part::Text(text)
                }
                Some(JobEvent::Part(Event::ToolCall(call))) => {
                    let (id, arguments) = (new_id("call_"), Value::Object(call.arguments).to_string());
                    self.calls.push((id.clone(), arguments.clone()));
                    Part::Call(Call { id, name: call.name, arguments })
                }
                Some(JobEvent::Part(Event::Token { id, thinking: false, probabilities: Some(probabilities) })) => {
                    Part::Probability(self.probability(id, &probabilities))
                }
                Some(JobEvent::Part(Event::Prefill { .. } | Event::PrefillLayer(_) | Event::Token { .. })) => continue,
                Some(JobEvent::Done(done)) => {
                    let calls = std::mem::take(&mut self.calls);
                    let mut replay = self.server.replay.lock().unwrap_or_else(PoisonError::into_inner);
                    replay.keep(calls, &self.text, &done.written);
                    Part::Done(done)
                }
                Some(JobEvent::Failed(reason)) => Part::Failed(ApiError::internal(reason)),
                None => Part::Failed(ApiError::internal(
                    "the answer was given up: the server stops, or this was read too slowly",
                )),
            };
        }
    }

    /// Waits for the whole answer.
    pub(crate) async fn whole(&mut self) -> Result<(Whole, Done), ApiError> {
        let mut whole = Whole::default();
        loop {
            match self.next().await {
                Part::Thinking(text) => whole.thinking.push_str(&text),
                Part::Text(text) => whole.text.push_str(&text),
                Part::Call(call) => whole.calls.push(call),
                Part::Probability(token) => whole.probabilities.push(token),
                Part::Done(done) => return Ok((whole, done)),
                Part::Failed(error) => return Err(error),
            }
        }
    }

    fn probability(&self, id: u32, found: &LogProbabilities) -> Value {
        let token = |id: u32, logprob: f32| {
            let bytes = self.model.tokenizer.token_bytes(id).unwrap_or_default();
            // JSON has no infinity; OpenAI writes this for a token that cannot be
            let logprob = if logprob.is_finite() { logprob } else { -9999.0 };
            json!({"token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes})
        };
        let mut chosen = token(id, found.chosen);
        chosen["top_logprobs"] = found.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        chosen
    }
}

impl Done {
    /// Whether the answer was cut off.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(self.finish, Finish::Length | Finish::ContextFull)
    }

    /// OpenAI's `usage` of chats and completions.
    pub(crate) fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.thinking},
        })
    }

    /// llama.cpp's `timings`.
    pub(crate) fn timings(&self) -> Value {
        let (prompt, made) = (self.prompt_tokens - self.cached_tokens, self.tokens.saturating_sub(1));
        let (prefill, decode) = (self.prefill.as_secs_f64(), self.decode.as_secs_f64());
        let rate = |n: usize, seconds: f64| n as f64 / seconds.max(1e-9);
        json!({
            "cache_n": self.cached_tokens,
            "prompt_n": prompt,
            "prompt_ms": prefill * 1e3,
            "prompt_per_token_ms": prefill * 1e3 / prompt.max(1) as f64,
            "prompt_per_second": rate(prompt, prefill),
            "predicted_n": self.tokens,
            "predicted_ms": decode * 1e3,
            "predicted_per_token_ms": decode * 1e3 / made.max(1) as f64,
            "predicted_per_second": rate(made, decode),
        })
    }
}
