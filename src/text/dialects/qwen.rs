//! Qwen3.5's dialect: thoughts end with `</think>`; a call is
//! `<tool_call><function=NAME><parameter=KEY>\nVALUE\n</parameter></function></tool_call>`, and may begin inside the
//! thoughts, which it ends. Older models of the family make calls as JSON
//! (`<tool_call>{"name": .., "arguments": ..}</tool_call>`). [`calls`](super::super::calls) reads both.

use std::fmt::Write;

use serde_json::Value;

use super::super::lark::{json_of, literal, rule};
use super::Dialect;

/// Of Qwen3 and later.
pub(crate) static QWEN: Dialect = Dialect {
    think: "<think>",
    end_think: "</think>",
    call: "<tool_call>",
    end_call: "</tool_call>",
    forced_end: "\n</think>\n\n",
    gap: "\n\n",
    between_calls: "\n",
    call_rules,
};

/// A call of one function: its parameters in the order of its schema, those that are not required may be absent.
fn call_rules(rules: &mut String, index: usize, tool: &Value) {
    let function = tool.get("function").unwrap_or(tool);
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let parameters = function.get("parameters").unwrap_or(&Value::Null);
    let required: Vec<&str> =
        parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut body = literal(&format!("<tool_call>\n<function={name}>\n"));
    for (i, (key, schema)) in parameters["properties"].as_object().into_iter().flatten().enumerate() {
        let parameter = format!("parameter_{index}_{i}");
        let optional = if required.contains(&key.as_str()) { "" } else { "?" };
        let _ = write!(body, " {parameter}{optional}");
        let begin = literal(&format!("<parameter={key}>\n"));
        let has_text = schema.get("type").is_none_or(|kind| kind == "string" || kind.is_array());
        if has_text && schema.get("enum").is_none() {
            rule(rules, &parameter, &format!("{begin} text_{index}_{i}"));
            let _ = writeln!(rules, "text_{index}_{i}[suffix=\"\\n</parameter>\\n\"]: /(?s:.*)/");
        } else if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            let words: Vec<String> = words
                .iter()
                .map(|word| literal(&word.as_str().map_or_else(|| word.to_string(), str::to_owned)))
                .collect();
            rule(rules, &parameter, &format!("{begin} ({}) \"\\n</parameter>\\n\"", words.join(" | ")));
        } else {
            rule(rules, &parameter, &format!("{begin} json_{index}_{i} \"\\n</parameter>\\n\""));
            // a schema's references start at the root of the function's
            let mut schema = schema.clone();
            for key in ["$defs", "definitions"] {
                if let (Some(definitions), Some(schema)) = (parameters.get(key), schema.as_object_mut()) {
                    schema.insert(key.to_owned(), definitions.clone());
                }
            }
            rule(rules, &format!("json_{index}_{i}"), &json_of(&schema));
        }
    }
    let _ = write!(body, " {}", literal("</function>\n</tool_call>"));
    rule(rules, &format!("call_{index}"), &body);
}
