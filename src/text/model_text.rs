//! All that a loaded model has for text: what its files give, and what is made of them once for everybody who asks.

use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::replay::Replay;
use super::{ChatTemplate, Dialect, GenerationConfig, GrammarCompiler, Infill, QWEN, SamplerOptions, Tokenizer, Typed};

/// The text side of a model. It needs no device, and threads share it.
pub(crate) struct ModelText {
    /// From text to ids and back.
    pub(crate) tokenizer: Tokenizer,
    /// Marks what people typed.
    pub(crate) typed: Typed,
    /// Why there is no chat, if there is none.
    pub(crate) template: Result<ChatTemplate, String>,
    /// How thoughts and calls are written.
    pub(crate) dialect: &'static Dialect,
    /// The model's own defaults.
    pub(crate) sampler: SamplerOptions,
    /// The tokens for filling gaps, if the model has them.
    pub(crate) infill: Option<Infill>,
    /// Ids that end a turn.
    pub(crate) stop_ids: Vec<u32>,
    /// Made when the first grammar is asked for.
    grammars: OnceLock<Result<GrammarCompiler, String>>,
    /// What the model wrote when it called tools.
    replay: Mutex<Replay>,
}

impl ModelText {
    /// Of a model's files; `template` says why there is no chat, if there is none.
    pub(crate) fn new(
        tokenizer: Tokenizer,
        template: Result<ChatTemplate, String>,
        generation: GenerationConfig,
    ) -> Self {
        ModelText {
            typed: Typed::new(&tokenizer),
            infill: Infill::of(&tokenizer),
            stop_ids: generation.stop_ids(&tokenizer),
            sampler: generation.sampler,
            tokenizer,
            // all families that call tools so far write as one of Qwen's do
            dialect: template.as_ref().map_or(&QWEN, |template| Dialect::taught_by(template.source())),
            template,
            grammars: OnceLock::new(),
            replay: Mutex::default(),
        }
    }

    /// What makes grammars for the tokenizer, or why none can be made.
    pub(crate) fn grammars(&self) -> Result<&GrammarCompiler, String> {
        let make = || GrammarCompiler::new(&self.tokenizer, &self.stop_ids, self.dialect).map_err(|e| e.to_string());
        let made = self.grammars.get_or_init(make);
        made.as_ref().map_err(Clone::clone)
    }

    /// The turns with calls that are remembered.
    pub(crate) fn replay(&self) -> MutexGuard<'_, Replay> {
        // it is whole after every call of its methods
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ModelText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelText").field("stop_ids", &self.stop_ids).finish_non_exhaustive()
    }
}
