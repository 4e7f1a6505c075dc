//! What requests need to know of the model while the engine computes: tokenizer, template, defaults.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::ApiError;
use crate::engine::{Engine, EngineError};
use crate::text::{ChatTemplate, Form, Grammar, GrammarCompiler, SamplerOptions, Tokenizer};

/// Bytes of a text, for each position of the context, beyond which its tokens are counted before it is taken as a whole.
const LONG: usize = 8;

/// Bytes that are counted at a time.
const PIECE: usize = 64 << 10;

/// The loaded model, as far as text is concerned.
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) tokenizer: Tokenizer,
    /// Why there is no chat, if there is none.
    template: Result<ChatTemplate, String>,
    pub(crate) sampler: SamplerOptions,
    pub(crate) stop_ids: Vec<u32>,
    /// Positions.
    pub(crate) context: usize,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Made when the first grammar is asked for.
    grammars: OnceLock<Result<GrammarCompiler, String>>,
}

impl Model {
    pub(crate) fn of(engine: &Engine, name: String) -> Result<Self, EngineError> {
        let tokenizer = engine.tokenizer()?;
        let generation = engine.generation_config()?;
        Ok(Model {
            name,
            stop_ids: generation.stop_ids(&tokenizer),
            sampler: generation.sampler,
            tokenizer,
            template: engine.chat_template().map_err(|e| e.to_string()),
            context: engine.context(),
            created: now(),
            grammars: OnceLock::new(),
        })
    }

    /// The tokens of a text. One that is far too long is refused after the first pieces of it: the tokenizer takes 100
    /// bytes for every byte of text.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, ApiError> {
        let encode = |text: &str| self.tokenizer.encode(text).map_err(|e| ApiError::invalid(e.to_string()));
        let (mut found, mut rest) = (0, if text.len() > LONG * self.context { text } else { "" });
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
            found += encode(piece)?.len();
            // a cut through a word may add some tokens
            if found / 10 * 9 > self.context {
                return Err(ApiError::context(found / 10 * 9, self.context, true));
            }
            rest = after;
        }
        encode(text)
    }

    pub(crate) fn template(&self) -> Result<&ChatTemplate, ApiError> {
        self.template.as_ref().map_err(|reason| ApiError::invalid(reason.clone()))
    }

    /// The grammar of a form; `parameter` is what asked for it.
    pub(crate) fn grammar(&self, form: &Form, parameter: &'static str) -> Result<Grammar, ApiError> {
        let compiler = self
            .grammars
            .get_or_init(|| GrammarCompiler::new(&self.tokenizer, &self.stop_ids).map_err(|e| e.to_string()));
        match compiler {
            Ok(compiler) => compiler.compile(form).map_err(|e| ApiError::invalid(e.to_string()).at(parameter)),
            Err(reason) => Err(ApiError::invalid(reason.clone()).at(parameter)),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
