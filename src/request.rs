//! What is asked of a model, whoever asks: prompt, tools, form of the answer, sampling. [`Language`] turns it into tokens.

mod content;
mod conversation;
mod fields;
mod forms;
mod keys;
mod language;
mod openai;

use serde_json::{Map, Value};

#[cfg(feature = "server")]
pub(crate) use crate::text::strftime;
#[cfg(feature = "server")]
pub(crate) use content::{Unreadable, content_text};
#[cfg(feature = "server")]
pub(crate) use fields::{json_schema, sampling, template_keys, thinking_budget};
#[cfg(feature = "server")]
pub(crate) use forms::wants_grammar;
#[cfg(feature = "server")]
pub(crate) use keys::BodyKeys;
pub(crate) use language::new_id;
pub use language::{GenerateOptions, Language, Prepared};
#[cfg(feature = "server")]
pub(crate) use openai::{MOST_PROBABILITIES, schema_of};

use crate::text::{Message, SamplerOptions};

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What comes before the answer.
    pub prompt: Prompt,
    /// Functions that may be called, as OpenAI's chat describes them:
    /// `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub tools: Vec<Value>,
    /// Whether they may or must be.
    pub tool_choice: ToolChoice,
    /// No more than one call.
    pub one_call: bool,
    /// The JSON schema of the answer, if it must be JSON. It holds behind thoughts, not for them.
    pub json_schema: Option<Value>,
    /// Most tokens of the answer, thoughts among them; `None` is what the context has room for.
    pub max_tokens: Option<usize>,
    /// Most tokens of thoughts: then they are ended, and the answer begins.
    pub thinking_budget: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// How tokens are chosen; what is not given is the model's.
    pub sampling: SamplerOptions,
    /// The same seed gives the same text; `None` takes one that was not used before.
    pub seed: Option<u64>,
    /// Of how many of the most likely tokens [`Event::Token`](crate::Event::Token) tells the probabilities.
    pub probabilities: Option<usize>,
    /// Tells those of the prompt's tokens as well, by [`Event::Prompt`](crate::Event::Prompt).
    pub prompt_probabilities: bool,
    /// What is added to the logits of tokens: (id, bias). -inf is never.
    pub logit_bias: Vec<(u32, f32)>,
    /// The answer is a turn of its own even where the last message is the assistant's; otherwise that message goes on.
    pub new_turn: bool,
    /// More for the chat template, such as `enable_thinking`.
    pub template: Map<String, Value>,
}

/// What comes before an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, which the model's chat template renders.
    Chat(Vec<Message>),
    /// Text that goes on as it stands.
    Text(String),
    /// Token ids that go on as they stand.
    Tokens(Vec<u32>),
    /// A gap in a text, which the answer fills, for models that were trained for it.
    Infill {
        /// What stands before it.
        before: String,
        /// What stands behind it.
        after: String,
        /// Other files of the same repository: their names and their texts.
        files: Vec<(String, String)>,
    },
}

impl Default for Prompt {
    fn default() -> Self {
        Prompt::Chat(Vec::new())
    }
}

/// Which tools an answer may or must call.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// The one of this name.
    Named(String),
}

impl Request {
    /// Asks for the next message of a conversation.
    pub fn chat(messages: impl IntoIterator<Item = Message>) -> Self {
        Request { prompt: Prompt::Chat(messages.into_iter().collect()), ..Request::default() }
    }

    /// Asks for a text to go on as it stands.
    pub fn text(text: impl Into<String>) -> Self {
        Request { prompt: Prompt::Text(text.into()), ..Request::default() }
    }

    /// The request for one of several answers to the same: another seed for each.
    #[cfg(feature = "server")]
    pub(crate) fn answer_number(&self, index: usize) -> Self {
        let seed = self.seed.map(|seed| seed.wrapping_add(index as u64));
        Request { seed, ..self.clone() }
    }

    /// Lets the model think before it answers, or not, whatever its chat template does by itself.
    pub fn set_thinking(&mut self, thinks: bool) {
        self.template.insert("enable_thinking".to_owned(), thinks.into());
    }
}

/// Why a request cannot be answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// What kind of reason it is.
    pub kind: RequestErrorKind,
    /// What was expected and what was found.
    pub message: String,
    /// The field of the request that is meant, by its name in OpenAI's chat.
    pub field: Option<String>,
}

/// Kinds of [`RequestError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestErrorKind {
    /// It cannot be meant.
    Invalid,
    /// It asks for what is not there.
    Unsupported,
    /// The prompt has no room. Nothing is cut off silently.
    ContextFull,
    /// It cannot be made ready now; later it may.
    Busy,
}

impl RequestError {
    /// The request cannot be meant.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        RequestError { kind: RequestErrorKind::Invalid, message: message.into(), field: None }
    }

    /// There is no room for it now.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        RequestError { kind: RequestErrorKind::Busy, ..Self::invalid(message) }
    }

    /// The request asks for what is not there.
    pub(crate) fn unsupported(field: &str, what: &str) -> Self {
        RequestError { kind: RequestErrorKind::Unsupported, ..Self::invalid(what) }.at(field)
    }

    /// The prompt has no room. Its tokens may be counted in part only: `found` are then the fewest there can be.
    fn context(found: usize, most: usize, is_least: bool) -> Self {
        let least = if is_least { "at least " } else { "" };
        // in the words that agents look for: Claude Code compacts on "prompt is too long: N tokens > M maximum", litellm and
        // langchain know "maximum context length"
        let message = format!(
            "This model's maximum context length is {most} tokens; prompt is too long: {least}{found} tokens > {most} maximum. \
             Nothing is cut off (hint: raise --ctx)"
        );
        RequestError { kind: RequestErrorKind::ContextFull, ..Self::invalid(message) }.at("messages")
    }

    /// Names the field.
    pub(crate) fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}
