//! Rules of llguidance's dialect of Lark, as text.

use std::fmt::Write;

use serde_json::{Value, json};

/// Blanks between two parts of JSON: without a limit a model may write blanks for ever.
const JSON_BLANK: &str = r"(\x20|\n\x20{0,32})";

/// Adds a rule.
pub(super) fn rule(rules: &mut String, name: &str, body: &str) {
    let _ = writeln!(rules, "{name}: {body}");
}

/// JSON of a schema.
pub(super) fn json_of(schema: &Value) -> String {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        // `true` is a schema as well; anything else is an error of the compiler's
        other => return format!("%json {other}"),
    };
    schema.insert("x-guidance".to_owned(), json!({"whitespace_pattern": JSON_BLANK}));
    format!("%json {}", Value::Object(schema))
}

/// A text in quotes.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
