//! Qwen3.5's dialect: thoughts end with `</think>`; a call is
//! `<tool_call><function=NAME><parameter=KEY>\nVALUE\n</parameter></function></tool_call>`, and may begin inside the
//! thoughts, which it ends. Older models of the family make calls as JSON
//! (`<tool_call>{"name": .., "arguments": ..}</tool_call>`). [`calls`](super::super::calls) reads both.

use super::Dialect;
use super::qwen_calls::{json_rules, xml_rules};

/// Of Qwen3-Coder, Qwen3.5 and later: calls as XML.
pub(crate) static QWEN: Dialect = Dialect {
    think: "<think>",
    end_think: "</think>",
    call: "<tool_call>",
    end_call: "</tool_call>",
    forced_end: "\n</think>\n\n",
    gap: "\n\n",
    between_calls: "\n",
    call_rules: xml_rules,
};

/// Of Qwen3 before: calls as JSON.
pub(crate) static QWEN_JSON: Dialect = Dialect { call_rules: json_rules, ..QWEN };
