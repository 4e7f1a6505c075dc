//! Values as a tool's schema wants them.

use serde_json::Value;

/// The value of argument `key` of a tool whose parameter schema is `parameters`, from the text that a model wrote; text
/// where it fits nothing else.
pub(crate) fn value_from_text(text: &str, parameters: &Value, key: &str) -> Value {
    typed(text, parameters.get("properties").and_then(|properties| properties.get(key)))
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
