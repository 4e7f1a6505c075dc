//! A schema as a list of simple ones.

use serde_json::{Map, Value, json};

use super::kinds::{JsonKind, Kinds, implied_kind, kinds, named_kinds};
use super::plain::REMARKS;
use super::references::target;

/// Most simple schemas of one; alternatives within alternatives multiply.
const MOST_LEAVES: usize = 256;
const MOST_DEPTH: usize = 16;

/// The alternatives of `schema`, a part of `root`, so that each is one of: a list of values (`enum` alone), a text (`type` is
/// `string`), anything (no `type`), or a value that is no text, whose references start at `root`. What cannot be taken apart
/// so is a text without conditions, where it may be one, and a schema for everything else.
pub(crate) fn leaves(root: &Value, schema: &Value) -> Vec<Map<String, Value>> {
    let mut found = Vec::new();
    if collect(root, schema, 0, &mut found).is_none() || found.len() > MOST_LEAVES {
        found.clear();
        let allowed = kinds(root, schema);
        split(&mut found, allowed, Map::new(), &|words| {
            let mut others = Map::new();
            others.insert("allOf".to_owned(), json!([schema, {"type": words}]));
            others
        });
    }
    found
}

/// `None` where that takes too long, or parts do not go together.
fn collect(root: &Value, schema: &Value, depth: usize, found: &mut Vec<Map<String, Value>>) -> Option<()> {
    if depth > MOST_DEPTH || found.len() > MOST_LEAVES {
        return None;
    }
    let mut all = Map::new();
    if !merge(root, schema, depth, &mut all)? {
        return Some(());
    }
    for list in ["anyOf", "oneOf"] {
        let Some(Value::Array(options)) = all.shift_remove(list) else { continue };
        for option in &options {
            let both = if all.is_empty() { option.clone() } else { json!({"allOf": [all, option]}) };
            collect(root, &both, depth + 1, found)?;
        }
        return Some(());
    }
    let named = named_kinds(&Value::Object(all.clone()));
    let values = match (all.get("const"), all.get("enum")) {
        (Some(value), _) => Some(vec![value.clone()]),
        (None, Some(Value::Array(values))) => Some(values.clone()),
        _ => None,
    };
    if let Some(mut values) = values {
        values.retain(|value| named.unwrap_or(Kinds::ALL).includes(Kinds::of_value(value)));
        if !values.is_empty() {
            found.push(Map::from_iter([("enum".to_owned(), values.into())]));
        }
        return Some(());
    }
    let implied = || implied_kind(&Value::Object(all.clone())).map(Kinds::of);
    let allowed = named.or_else(implied).unwrap_or(Kinds::ALL);
    split(found, allowed, all.clone(), &|words| {
        let mut others = all.clone();
        others.insert("type".to_owned(), words);
        others
    });
    Some(())
}

/// Adds a text and the rest, as far as they are allowed.
fn split(
    found: &mut Vec<Map<String, Value>>,
    allowed: Kinds,
    mut text: Map<String, Value>,
    others: &dyn Fn(Value) -> Map<String, Value>,
) {
    let Some(mut words) = allowed.words() else {
        // all JSON is text too
        return found.push(Map::new());
    };
    if allowed.has(JsonKind::Text) {
        text.insert("type".to_owned(), "string".into());
        found.push(text);
        words.retain(|word| *word != "string");
    }
    if !words.is_empty() {
        found.push(others(words.into()));
    }
}

/// Puts what a schema says itself, behind references and in `allOf` into `all`; `Some(false)` where nothing fits.
fn merge(root: &Value, schema: &Value, depth: usize, all: &mut Map<String, Value>) -> Option<bool> {
    if depth > MOST_DEPTH {
        return None;
    }
    let Value::Object(keywords) = schema else { return Some(schema != &Value::Bool(false)) };
    for (key, value) in keywords {
        match (key.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                if !merge(root, target(root, reference)?, depth + 1, all)? {
                    return Some(false);
                }
            }
            ("allOf", Value::Array(parts)) => {
                for part in parts {
                    if !merge(root, part, depth + 1, all)? {
                        return Some(false);
                    }
                }
            }
            (key, _) if REMARKS.contains(&key) => {}
            ("type" | "nullable", _) => {
                let own = named_kinds(schema).unwrap_or(Kinds::ALL);
                let before = named_kinds(&Value::Object(all.clone())).unwrap_or(Kinds::ALL);
                match own.and(before) {
                    Kinds::NONE => return Some(false),
                    both => both.words().map(|words| all.insert("type".to_owned(), words.into())),
                };
            }
            _ => match all.get(key) {
                Some(before) if before != value => return None,
                _ => drop(all.insert(key.clone(), value.clone())),
            },
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves_of(schema: Value) -> Value {
        Value::from(leaves(&schema, &schema).into_iter().map(Value::Object).collect::<Vec<_>>())
    }

    #[test]
    fn alternatives_are_taken_apart() {
        for (schema, expected) in [
            (json!({"type": "string", "description": "x"}), json!([{"type": "string"}])),
            (json!({}), json!([{}])),
            (json!({"enum": [1, "a", null], "type": ["string", "null"]}), json!([{"enum": ["a", null]}])),
            (
                json!({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": null}),
                json!([{"type": ["integer"], "minimum": 1}, {"type": ["null"]}]),
            ),
            (
                json!({"type": ["string", "integer"], "maxLength": 3}),
                json!([{"type": "string", "maxLength": 3}, {"type": ["integer"], "maxLength": 3}]),
            ),
            (
                json!({"$ref": "#/$defs/a", "maxLength": 2, "$defs": {"a": {"allOf": [{"type": "string"}, {"minLength": 1}]}}}),
                json!([{"type": "string", "minLength": 1, "maxLength": 2}]),
            ),
            (json!({"type": "string", "oneOf": [{"const": "a"}, {"const": 3}]}), json!([{"enum": ["a"]}])),
            (json!(false), json!([])),
            // two patterns do not make one
            (json!({"allOf": [{"type": "string", "pattern": "a"}, {"pattern": "b"}]}), json!([{"type": "string"}])),
            (json!({"$ref": "#"}), json!([{}])),
        ] {
            assert_eq!(leaves_of(schema.clone()), expected, "{schema}");
        }
    }
}
