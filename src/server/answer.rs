//! An answer on its way from the engine to a client, before a protocol writes it down.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Server;
use super::error::ApiError;
use super::metrics::InFlight;
use super::model::Model;
use super::worker::{JobEvent, PromptProgress};
use crate::{Event, Finish, Generated, LogProbabilities, Prepared};

/// A request that is in the queue or computed. Dropping it gives the request up.
pub(crate) struct Running {
    pub(super) server: Arc<Server>,
    pub(crate) model: Arc<Model>,
    pub(super) events: mpsc::Receiver<JobEvent>,
    /// What is answered after this.
    pub(super) rest: std::vec::IntoIter<Prepared>,
    pub(crate) prompt_tokens: usize,
    pub(crate) stops: Vec<String>,
    /// Whether [`AnswerPart::Progress`] is asked for.
    pub(crate) tells_progress: bool,
    pub(super) _in_flight: InFlight,
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
    /// How far the prompt is, where that was asked for.
    Progress(PromptProgress),
    /// The tokens of the prompt in the same form, where they were asked for; the first has no `logprob`.
    Prompt(Vec<Value>),
    /// The token that ended the answer, in the same form.
    StopToken(Value),
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
    /// Begins the next answer, behind [`AnswerPart::Done`]; `false` when there is none.
    pub(crate) fn go_on(&mut self) -> Result<bool, ApiError> {
        let Some(next) = self.rest.next() else { return Ok(false) };
        self.events = self.server.enqueue(Some(next), true)?;
        Ok(true)
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
                Some(JobEvent::Part(Event::StopToken { id, probabilities })) => {
                    AnswerPart::StopToken(self.probability(id, &probabilities))
                }
                Some(JobEvent::Part(Event::Prompt(tokens))) => {
                    let first = |id: u32| self.token(id, Value::Null);
                    let token = |(id, found): (u32, Option<LogProbabilities>)| {
                        found.map_or_else(|| first(id), |found| self.probability(id, &found))
                    };
                    AnswerPart::Prompt(tokens.into_iter().map(token).collect())
                }
                Some(JobEvent::Progress(progress)) if self.tells_progress => AnswerPart::Progress(progress),
                Some(JobEvent::Progress(_)) => continue,
                // what is no part of the answer
                Some(JobEvent::Part(_)) => continue,
                Some(JobEvent::Done(done)) => AnswerPart::Done(done),
                Some(JobEvent::Refused(refused)) => AnswerPart::Failed(refused.into()),
                // the log has the reason, which may name files of this machine
                Some(JobEvent::Failed) => AnswerPart::Failed(ApiError::internal(
                    "the answer could not be computed; the server's log says why",
                )),
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
                AnswerPart::Prompt(_) | AnswerPart::StopToken(_) | AnswerPart::Progress(_) => {}
                AnswerPart::Done(done) => return Ok((whole, done)),
                AnswerPart::Failed(error) => return Err(error),
            }
        }
    }

    fn token(&self, id: u32, logprob: Value) -> Value {
        let bytes = self.model.language.token_bytes(id);
        json!({"token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes})
    }

    fn probability(&self, id: u32, found: &LogProbabilities) -> Value {
        // JSON has no infinity; OpenAI writes this for a token that cannot be
        let finite = |logprob: f32| if logprob.is_finite() { logprob } else { -9999.0 };
        let mut chosen = self.token(id, finite(found.chosen).into());
        let top = found.top.iter().map(|(id, logprob)| self.token(*id, finite(*logprob).into()));
        chosen["top_logprobs"] = top.collect();
        chosen
    }
}

/// Whether an answer was cut off.
pub(crate) fn is_cut(made: &Generated) -> bool {
    matches!(made.finish, Finish::Length | Finish::ContextFull)
}

/// OpenAI's `usage` of chats and completions, of `answers` to each prompt. A prompt of several answers counts once.
pub(crate) fn usage(made: &[Generated], answers: usize) -> Value {
    let prompts = made.iter().step_by(answers.max(1));
    let (prompt, reused) = prompts.fold((0, 0), |(p, r), made| (p + made.prompt, r + made.reused));
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
        "prompt_n": made.computed,
        "prompt_ms": prefill,
        "prompt_per_token_ms": prefill / made.computed.max(1) as f64,
        "prompt_per_second": made.prefill_rate(),
        "predicted_n": made.tokens.len(),
        "predicted_ms": decode,
        "predicted_per_token_ms": decode / made.decoded().max(1) as f64,
        "predicted_per_second": made.decode_rate(),
    })
}
