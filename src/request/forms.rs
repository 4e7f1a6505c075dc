//! What of a request a grammar holds its answer to.

use serde_json::Value;

use super::{Request, RequestError, ToolChoice};
use crate::text::{AnswerForm, Grammar, GrammarError, ModelText};

/// Whether a grammar may have to be made for it, which takes a moment.
#[cfg(feature = "server")]
pub(crate) fn wants_grammar(request: &Request) -> bool {
    let is_forced = matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    request.json_schema.is_some() || is_forced || request.tools.iter().any(is_strict)
}

/// The grammar that an answer must follow, if any, made while `is_wanted`.
pub(super) fn grammar_of(
    text: &ModelText,
    request: &Request,
    one_call: bool,
    behind_thoughts: bool,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Option<Grammar>, RequestError> {
    let json = request.json_schema.clone();
    let form = AnswerForm { json, calls: request.tools.clone(), one_call, behind_thoughts, free_text: false };
    let grammar = |form: AnswerForm, field: &'static str| {
        let compiler = text.grammars().map_err(|reason| RequestError::invalid(reason).at(field))?;
        compiler.compile_while(form, is_wanted).map_err(|e| match e {
            GrammarError::Busy(_) | GrammarError::Unwanted => RequestError::busy(e.to_string()),
            GrammarError::NoEnd | GrammarError::Unusable { .. } => RequestError::invalid(e.to_string()).at(field),
        })
    };
    match request.tool_choice {
        ToolChoice::Required | ToolChoice::Named(_) => {
            grammar(AnswerForm { json: None, ..form }, "tool_choice").map(Some)
        }
        ToolChoice::Auto | ToolChoice::None if form.json.is_some() => grammar(form, "response_format").map(Some),
        // what a call looks like if there is one; a schema that cannot be followed does not stop an answer without calls
        ToolChoice::Auto if request.tools.iter().any(is_strict) => {
            let grammar = grammar(AnswerForm { free_text: true, ..form }, "tools");
            Ok(grammar.inspect_err(|error| tracing::warn!("tools are not strict: {}", error.message)).ok())
        }
        ToolChoice::Auto | ToolChoice::None => Ok(None),
    }
}

fn is_strict(tool: &Value) -> bool {
    tool.pointer("/function/strict") == Some(&Value::Bool(true))
}
