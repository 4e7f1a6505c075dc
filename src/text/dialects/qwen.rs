//! Qwen3.5's dialect: thoughts end with `</think>`; a call is
//! `<tool_call><function=NAME><parameter=KEY>\nVALUE\n</parameter></function></tool_call>`, and may begin inside the
//! thoughts, which it ends. Calls as JSON (`<tool_call>{"name": .., "arguments": ..}</tool_call>`), which older models
//! of the family make, are understood too.

use std::fmt::Write;

use serde_json::{Map, Value};

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
    read_call,
    call_rules,
};

/// A call between its marks.
fn read_call(inner: &str, tools: &[Value]) -> Option<(String, Map<String, Value>)> {
    let inner = inner.trim();
    if inner.starts_with('{') {
        let mut call: Map<String, Value> = serde_json::from_str(inner).ok()?;
        let name = call.get("name")?.as_str()?.to_owned();
        return match call.remove("arguments") {
            Some(Value::Object(arguments)) => Some((name, arguments)),
            None => Some((name, Map::new())),
            Some(_) => None,
        };
    }
    let (name, mut rest) = inner.strip_prefix("<function=")?.split_once('>')?;
    let mut arguments = Map::new();
    while let Some(parameter) = rest.trim_start().strip_prefix("<parameter=") {
        let (key, after) = parameter.split_once('>')?;
        let (value, after) = after.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.insert(key.to_owned(), typed(value, schema(tools, name, key)));
        rest = after;
    }
    (rest.trim() == "</function>").then(|| (name.to_owned(), arguments))
}

/// The schema of a function's parameter.
fn schema<'a>(tools: &'a [Value], name: &str, key: &str) -> Option<&'a Value> {
    let functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
    let mut named = functions.filter(|function| function.get("name").and_then(Value::as_str) == Some(name));
    named.find_map(|function| function.get("parameters")?.get("properties")?.get(key))
}

/// A parameter's value as its schema wants it; text where it is none of that.
fn typed(value: &str, schema: Option<&Value>) -> Value {
    let types: Vec<&str> = match schema.and_then(|schema| schema.get("type")) {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        // a schema without a type: any JSON, else text
        _ if schema.is_some_and(|s| s.get("anyOf").or(s.get("oneOf")).is_some()) => {
            return serde_json::from_str(value).unwrap_or_else(|_| value.into());
        }
        _ => return value.into(),
    };
    let trimmed = value.trim();
    for wanted in &types {
        let found = match *wanted {
            "null" => trimmed.eq_ignore_ascii_case("null").then_some(Value::Null),
            "boolean" => match trimmed.to_ascii_lowercase().as_str() {
                "true" => Some(true.into()),
                "false" => Some(false.into()),
                _ => None,
            },
            "integer" => trimmed.parse::<i64>().ok().map(Into::into),
            "number" => serde_json::from_str(trimmed).ok().filter(Value::is_number),
            "object" => serde_json::from_str(trimmed).ok().filter(Value::is_object),
            "array" => serde_json::from_str(trimmed).ok().filter(Value::is_array),
            _ => None,
        };
        if let Some(found) = found {
            return found;
        }
    }
    value.into()
}

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
