//! From text to token ids and back: tokenizer, chat template, sampler, and the rules for when a text ends.
//!
//! Nothing here knows about weights or devices: the engine hands over ids and logits, and takes ids and text. Files
//! are read elsewhere; every constructor takes the file's text and the path to name in errors.
//!
//! A conversation passes through in this order: [`ChatTemplate::render`], [`Tokenizer::encode`], the model,
//! [`Sampler::sample`], [`TextStream::push`], [`ReplyParser::push`] (which reads the calls of tools by `calls`),
//! [`StopStrings::push`].

mod aside;
mod calls;
mod chat_message;
mod chat_template;
mod dialects;
mod generation_config;
mod grammar;
mod infill;
mod jinja;
mod lark;
mod model_text;
mod replay;
mod reply;
mod sampler;
mod sampler_options;
mod schema;
mod special_tokens;
mod stop_strings;
mod text_stream;
mod tokenizer;
mod tokenizer_file;
mod typed;

use std::path::PathBuf;

pub use chat_message::{Content, Message};
pub use chat_template::ChatTemplate;
pub(crate) use dialects::{Dialect, QWEN};
pub use generation_config::GenerationConfig;
pub(crate) use grammar::{AnswerForm, Grammar, GrammarCompiler, GrammarError, TokenMask};
pub(crate) use infill::{Infill, InfillPiece};
#[cfg(feature = "server")]
pub(crate) use jinja::strftime;
pub(crate) use model_text::ModelText;
pub use reply::ToolCall;
pub(crate) use reply::{ReplyParser, ReplyPart};
pub use sampler::Sampler;
pub use sampler_options::SamplerOptions;
pub(crate) use sampler_options::SamplerSettings;
pub(crate) use stop_strings::StopStrings;
pub(crate) use text_stream::TextStream;
pub use tokenizer::Tokenizer;
pub(crate) use typed::{Typed, without_marks};

/// What can go wrong between text and ids.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// `tokenizer.json` or `tokenizer_config.json` cannot be used.
    #[error("{}: cannot use this tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// The tokenizer gave up on a text.
    #[error("{}: cannot encode a text of {bytes} bytes: {reason}", path.display())]
    Encode {
        /// The tokenizer's file.
        path: PathBuf,
        /// Length of the text.
        bytes: usize,
        /// What the tokenizer said.
        reason: String,
    },
    /// The chat template does not parse, or failed (or refused) while it was rendered.
    #[error("{}: line {line}: {reason}", path.display())]
    ChatTemplate {
        /// The template's file.
        path: PathBuf,
        /// Line of the template, from 1; 0 where it is not known.
        line: usize,
        /// What the template engine, or the template's own `raise_exception`, said.
        reason: String,
    },
    /// The chat template could not be tried: there is no thread for it, or others that took too long still have theirs.
    #[error("the chat template has to wait: {reason}")]
    TemplateBusy {
        /// What is missing.
        reason: String,
    },
    /// `generation_config.json` is not JSON, or one of its values has the wrong type.
    #[error("{}: {key}: expected {expected}, found {found}", path.display())]
    GenerationConfig {
        /// The file.
        path: PathBuf,
        /// The key in the file.
        key: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What stood there.
        found: String,
    },
    /// A sampling option is out of its range.
    #[error("sampling option {option}: expected {expected}, found {found}")]
    SamplerOption {
        /// Name of the option, as in `generation_config.json`.
        option: &'static str,
        /// The range.
        expected: &'static str,
        /// The value given.
        found: f64,
    },
    /// A logit is NaN or +infinity: the model's arithmetic broke before the sampler.
    #[error(
        "logit of token {token} is {value}: expected a finite number (or -inf for a masked token; hint: a damaged model, or numbers beyond f16 on a GPU: flashflood verify, --activations f32)"
    )]
    Logit {
        /// The token's id.
        token: u32,
        /// NaN or +infinity.
        value: f32,
    },
    /// There is no token to choose from.
    #[error("no token to choose: all {count} logits are -inf")]
    NoToken {
        /// How many logits there were; 0 where the list was empty.
        count: usize,
    },
    /// The candidates handed over are not enough to sample from.
    #[error("these sampling options need {needed}, found {found} candidates")]
    Candidates {
        /// What the options need.
        needed: String,
        /// How many candidates were given.
        found: usize,
    },
}
