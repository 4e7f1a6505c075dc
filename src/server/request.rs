//! From what a protocol asks for to a request that the engine can compute.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::Server;
use super::answer::Running;
use super::error::ApiError;
use super::fields::{Sampling, ToolChoice, check_tools, plain_messages};
use super::metrics::InFlight;
use super::model::Model;
use super::worker::{EVENTS, Job, Refused};
use crate::generate::GenerateOptions;
use crate::state::chat_boundaries;
use crate::text::{Form, Message, ReplyParser, Sampler};

/// What a protocol asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) prompt: Prompt,
    pub(crate) sampling: Sampling,
    /// Functions as OpenAI's chat has them.
    pub(crate) tools: Vec<Value>,
    pub(crate) choice: ToolChoice,
    /// No more than one call.
    pub(crate) one_call: bool,
    /// The schema of the answer.
    pub(crate) json: Option<Value>,
    pub(crate) max_tokens: Option<u64>,
    /// Of how many of the most likely tokens the probabilities are told.
    pub(crate) probabilities: Option<usize>,
    /// More for the chat template, such as `enable_thinking`.
    pub(crate) template: Map<String, Value>,
}

/// What comes before the answer.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    Chat(Vec<Message>),
    /// Text that goes on as it stands.
    Text(String),
    Tokens(Vec<u32>),
}

impl Default for Prompt {
    fn default() -> Self {
        Prompt::Chat(Vec::new())
    }
}

impl Server {
    /// The model, once it is loaded.
    pub(crate) fn model(&self) -> Result<Arc<Model>, ApiError> {
        let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
        let loading = || ApiError::new(status, "the model is being loaded; /health tells when it is").code("loading");
        self.model.get().cloned().ok_or_else(loading)
    }

    /// Puts a request into the queue; its answer comes in pieces.
    pub(crate) async fn submit(self: &Arc<Self>, wanted: Wanted) -> Result<Running, ApiError> {
        let since = Instant::now();
        let model = self.model()?;
        let in_flight = InFlight::new(self);
        // what would be refused anyway is not worth the tokenizer's time
        if self.queue.is_closed() {
            return Err(Refused::Stopping.into());
        }
        let (events, receiver) = mpsc::channel(EVENTS);
        let stops = wanted.sampling.stops()?;
        let (server, of) = (self.clone(), model.clone());
        let job = blocking(move || prepare(&server, &of, wanted, events, since)).await?;
        let prompt_tokens = job.prompt.len();
        self.queue.submit(job).inspect_err(|refused| {
            if *refused == Refused::Full {
                self.metrics.refused();
            }
        })?;
        Ok(Running::new(self.clone(), model, receiver, prompt_tokens, stops, in_flight))
    }

    /// The tokens of a prompt.
    pub(crate) async fn tokens(self: &Arc<Self>, mut wanted: Wanted) -> Result<Vec<u32>, ApiError> {
        let (server, model) = (self.clone(), self.model()?);
        blocking(move || Ok(encode(&server, &model, &mut wanted)?.tokens)).await
    }
}

/// Runs what takes long on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::internal(e.to_string()))?
}

fn prepare(
    server: &Server,
    model: &Model,
    mut wanted: Wanted,
    events: mpsc::Sender<super::worker::JobEvent>,
    since: Instant,
) -> Result<Job, ApiError> {
    if wanted.max_tokens == Some(0) {
        return Err(ApiError::invalid("at least one token must be wanted").at("max_tokens"));
    }
    let Encoded { text, tokens: prompt, conversation } = encode(server, model, &mut wanted)?;
    if prompt.is_empty() {
        return Err(ApiError::invalid("the prompt is empty").at("prompt"));
    }
    if prompt.len() >= model.context {
        return Err(ApiError::context(prompt.len(), model.context, false));
    }
    let room = model.context - prompt.len();
    let seed = wanted.sampling.seed.map_or_else(any_seed, |seed| seed as u64);
    let sampler = Sampler::new(wanted.sampling.options().or(model.sampler), seed)
        .map_err(|e| ApiError::invalid(e.to_string()))?;
    let reply = match wanted.prompt {
        Prompt::Chat(_) => ReplyParser::new(&text, wanted.tools.clone()),
        Prompt::Text(_) | Prompt::Tokens(_) => ReplyParser::default(),
    };
    let one_call = wanted.one_call || matches!(wanted.choice, ToolChoice::Named(_));
    let form =
        Form { json: wanted.json.clone(), calls: wanted.tools.clone(), one_call, behind_thoughts: reply.is_thinking() };
    let grammar = match wanted.choice {
        ToolChoice::Required | ToolChoice::Named(_) => {
            Some(model.grammar(&Form { json: None, ..form }, "tool_choice")?)
        }
        ToolChoice::Auto | ToolChoice::None if form.json.is_some() => Some(model.grammar(&form, "response_format")?),
        ToolChoice::Auto | ToolChoice::None => None,
    };
    let most = wanted.max_tokens.map_or(room, |most| usize::try_from(most).unwrap_or(usize::MAX).min(room));
    let options = GenerateOptions {
        max_tokens: most,
        stop_ids: model.stop_ids.clone(),
        stop_strings: wanted.sampling.stops()?,
        reply,
        grammar,
        probabilities: wanted.probabilities,
        boundaries: match conversation {
            Some(of) => chat_boundaries(
                model.template()?,
                &model.tokenizer,
                &of.messages,
                of.tools.as_ref(),
                &wanted.template,
                &prompt,
            ),
            None => Vec::new(),
        },
    };
    Ok(Job { prompt, sampler, options, one_call, events, since })
}

/// A prompt in the form that the model reads.
struct Encoded {
    /// Empty where tokens were given.
    text: String,
    tokens: Vec<u32>,
    /// What it was rendered from, if that is what was given.
    conversation: Option<Conversation>,
}

struct Conversation {
    messages: Vec<Message>,
    tools: Option<Value>,
}

/// The prompt as text and as tokens; checks tools and messages, and leaves the tools that may be called.
fn encode(server: &Server, model: &Model, wanted: &mut Wanted) -> Result<Encoded, ApiError> {
    check_tools(&wanted.tools)?;
    match &wanted.choice {
        ToolChoice::None => wanted.tools.clear(),
        ToolChoice::Required if wanted.tools.is_empty() => {
            return Err(ApiError::invalid("a call is required, but there are no tools").at("tool_choice"));
        }
        ToolChoice::Named(name) => {
            let is_named = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str) == Some(name);
            if !wanted.tools.iter().any(is_named) {
                return Err(ApiError::invalid(format!("there is no tool {name:?}")).at("tool_choice"));
            }
        }
        ToolChoice::Auto | ToolChoice::Required => {}
    }
    let mut conversation = None;
    let text = match &mut wanted.prompt {
        Prompt::Tokens(ids) => {
            let vocab = model.tokenizer.vocab_size();
            return match ids.iter().find(|id| **id as usize >= vocab) {
                Some(id) => Err(ApiError::invalid(format!("{id} is no token: there are {vocab}")).at("prompt")),
                None => Ok(Encoded { text: String::new(), tokens: ids.clone(), conversation: None }),
            };
        }
        Prompt::Text(text) => text.clone(),
        Prompt::Chat(messages) => {
            let mut plain = plain_messages(std::mem::take(messages))?;
            {
                let replay = server.replay.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                plain.iter_mut().for_each(|message| replay.restore(message));
            }
            let tools = (!wanted.tools.is_empty()).then(|| Value::from(wanted.tools.clone()));
            let template = model.template()?;
            let rendered = template.render(&plain, tools.as_ref(), true, &wanted.template);
            let rendered = rendered.map_err(|e| ApiError::invalid(e.to_string()).at("messages"))?;
            conversation = Some(Conversation { messages: plain, tools });
            rendered
        }
    };
    let ids = model.encode(&text)?;
    if let ToolChoice::Named(name) = &wanted.choice {
        wanted.tools.retain(|tool| tool.pointer("/function/name").and_then(Value::as_str) == Some(name));
    }
    Ok(Encoded { text, tokens: ids, conversation })
}

/// A number that is not used again.
pub(crate) fn any_seed() -> u64 {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    time.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// A new id, such as `chatcmpl-3f…`.
pub(crate) fn new_id(prefix: &str) -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    static HASH: std::sync::OnceLock<RandomState> = std::sync::OnceLock::new();
    let mut hasher = HASH.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(any_seed());
    format!("{prefix}{:016x}{:08x}", hasher.finish(), any_seed() as u32)
}
