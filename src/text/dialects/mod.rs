//! How a family of models writes its thoughts and its calls of tools: a file each.

mod qwen;
mod qwen_calls;

use serde_json::Value;

pub(crate) use qwen::{QWEN, QWEN_JSON};

use super::lark::Rules;
use super::schema::SchemaError;

/// How thoughts and calls are written. [`ReplyParser`](super::ReplyParser) takes answers apart by its marks, and where a call must
/// come, [`GrammarCompiler`](super::GrammarCompiler) allows what it says.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// What begins thoughts.
    pub(super) think: &'static str,
    /// What ends them.
    pub(super) end_think: &'static str,
    /// What begins a call.
    pub(super) call: &'static str,
    /// What ends it.
    pub(super) end_call: &'static str,
    /// What ends thoughts from outside, as a model that was trained to think ends them itself.
    pub(crate) forced_end: &'static str,
    /// What stands between thoughts and an answer.
    pub(super) gap: &'static str,
    /// What stands between two calls.
    pub(super) between_calls: &'static str,
    /// Adds the rules of a call of one function to a grammar: `call_N`, with N the number given, which is what stands behind
    /// the mark that begins a call, and what it is made of.
    pub(super) call_rules: fn(&mut Rules, usize, &Value) -> Result<(), SchemaError>,
}

impl Dialect {
    /// The dialect that a chat template teaches: it shows the model how a call is written.
    pub(crate) fn taught_by(template: &str) -> &'static Dialect {
        let shows_json = template.contains("<tool_call>") && template.contains("\"arguments");
        if shows_json && !template.contains("<function=") { &QWEN_JSON } else { &QWEN }
    }

    /// What the parts of an answer are told apart by. Some tokenizers call these tokens special; a decoder must give their
    /// text to [`ReplyParser`](super::ReplyParser) all the same.
    pub(crate) fn markers(&self) -> [&'static str; 4] {
        [self.think, self.end_think, self.call, self.end_call]
    }

    /// Where thoughts end in what a model wrote, if they do.
    pub(crate) fn end_of_thoughts(&self, written: &str) -> Option<usize> {
        written.rfind(self.end_think).map(|at| at + self.end_think.len())
    }
}
