//! An answer on its way from the engine to a client, before a protocol writes it down.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::ApiError;
use super::metrics::InFlight;
use super::model::Model;
use super::worker::JobEvent;
use crate::{Event, Finish, Generated, LogProbabilities};

/// A request that is in the queue or computed. Dropping it gives the request up.
pub(crate) struct Running {
    pub(crate) model: Arc<Model>,
    events: mpsc::Receiver<JobEvent>,
    pub(crate) prompt_tokens: usize,
    pub(crate) stops: Vec<String>,
    _in_flight: InFlight,
}

/// A piece of an answer.
pub(crate) enum AnswerPart {
    Thinking(String),
    Text(String),
    /// A call begins.
    CallBegin {
        id: String,
        name: String,
    },
    /// More of the arguments of the call that began, as JSON.
    CallArguments(String),
    /// The call that began, whole.
    Call(Call),
    /// A token of the answer as OpenAI's `logprobs.content` has it.
    Probability(Value),
    /// The last one, unless it failed.
    Done(Generated),
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
        model: Arc<Model>,
        events: mpsc::Receiver<JobEvent>,
        prompt_tokens: usize,
        stops: Vec<String>,
        in_flight: InFlight,
    ) -> Self {
        Running { model, events, prompt_tokens, stops, _in_flight: in_flight }
    }

    /// The next piece. After [`AnswerPart::Done`] and [`AnswerPart::Failed`] there is none.
    pub(crate) async fn next(&mut self) -> AnswerPart {
        loop {
            return match self.events.recv().await {
                Some(JobEvent::Part(Event::Thinking(text))) => AnswerPart::Thinking(text),
                Some(JobEvent::Part(Event::Text(text))) => AnswerPart::Text(text),
                Some(JobEvent::Part(Event::ToolCallBegin { id, name })) => AnswerPart::CallBegin { id, name },
                Some(JobEvent::Part(Event::ToolCallArguments { piece, .. })) => AnswerPart::CallArguments(piece),
                Some(JobEvent::Part(Event::ToolCall(call))) => {
                    let arguments = Value::Object(call.arguments).to_string();
                    AnswerPart::Call(Call { id: call.id, name: call.name, arguments })
                }
                Some(JobEvent::Part(Event::Token { id, thinking: false, probabilities: Some(probabilities) })) => {
                    AnswerPart::Probability(self.probability(id, &probabilities))
                }
                // progress, which is not part of the answer
                Some(JobEvent::Part(_)) => continue,
                Some(JobEvent::Done(done)) => AnswerPart::Done(done),
                Some(JobEvent::Failed(reason)) => AnswerPart::Failed(ApiError::internal(reason)),
                None => AnswerPart::Failed(ApiError::internal(
                    "the answer was given up: the server stops, or this was read too slowly",
                )),
            };
        }
    }

    /// Waits for the whole answer.
    pub(crate) async fn whole(&mut self) -> Result<(Whole, Generated), ApiError> {
        let mut whole = Whole::default();
        loop {
            match self.next().await {
                AnswerPart::Thinking(text) => whole.thinking.push_str(&text),
                AnswerPart::Text(text) => whole.text.push_str(&text),
                AnswerPart::CallBegin { .. } | AnswerPart::CallArguments(_) => {}
                AnswerPart::Call(call) => whole.calls.push(call),
                AnswerPart::Probability(token) => whole.probabilities.push(token),
                AnswerPart::Done(done) => return Ok((whole, done)),
                AnswerPart::Failed(error) => return Err(error),
            }
        }
    }

    fn probability(&self, id: u32, found: &LogProbabilities) -> Value {
        let token = |id: u32, logprob: f32| {
            let bytes = self.model.language.token_bytes(id);
            // JSON has no infinity; OpenAI writes this for a token that cannot be
            let logprob = if logprob.is_finite() { logprob } else { -9999.0 };
            json!({"token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes})
        };
        let mut chosen = token(id, found.chosen);
        chosen["top_logprobs"] = found.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        chosen
    }
}

/// Whether an answer was cut off.
pub(crate) fn is_cut(made: &Generated) -> bool {
    matches!(made.finish, Finish::Length | Finish::ContextFull)
}

/// OpenAI's `usage` of chats and completions. The prompt of several answers counts once.
pub(crate) fn usage(made: &[Generated]) -> Value {
    let (prompt, reused) = made.first().map_or((0, 0), |first| (first.prompt, first.reused));
    let (tokens, thinking) = made.iter().fold((0, 0), |(t, k), made| (t + made.tokens.len(), k + made.thinking));
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": reused},
        "completion_tokens_details": {"reasoning_tokens": thinking},
    })
}

/// llama.cpp's `timings`.
pub(crate) fn timings(made: &Generated) -> Value {
    let (prefill, decode) = (made.prefill.as_secs_f64() * 1e3, made.decode.as_secs_f64() * 1e3);
    json!({
        "cache_n": made.reused,
        "prompt_n": made.computed(),
        "prompt_ms": prefill,
        "prompt_per_token_ms": prefill / made.computed().max(1) as f64,
        "prompt_per_second": made.prefill_rate(),
        "predicted_n": made.tokens.len(),
        "predicted_ms": decode,
        "predicted_per_token_ms": decode / made.decoded().max(1) as f64,
        "predicted_per_second": made.decode_rate(),
    })
}
