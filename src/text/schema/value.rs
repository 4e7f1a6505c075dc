//! The value of a tool's argument that a model wrote as plain text.

use serde_json::Value;

use super::fits::fits;
use super::kinds::{JsonKind, Kinds, kinds};
use super::literals::{boolean, integer, null, number, structure};
use super::references::target;

/// The value of the argument `key` of a tool with these `parameters`, written as `text` between the marks of a parameter.
///
/// The schema says what it can be. Of several readings (`12` under a number or a text) the first that fits the whole
/// schema is taken, then the first of the right kind; a text that is none of that stays text, and what may only be a text
/// always is one. Under a schema that says nothing it is what it looks like as JSON, and an argument that is not in the
/// schema is text.
pub(crate) fn value_from_text(text: &str, parameters: &Value, key: &str) -> Value {
    let schemas = schemas_of(parameters, key);
    if schemas.is_empty() {
        return text.into();
    }
    let allowed = schemas.iter().map(|schema| kinds(parameters, schema)).reduce(Kinds::or).unwrap_or(Kinds::ALL);
    let fits = |value: &Value| schemas.iter().any(|schema| fits(parameters, schema, value));
    let mut readings = readings(text, allowed, &fits);
    let best = readings.iter().position(&fits).unwrap_or(0);
    if readings.is_empty() { text.into() } else { readings.swap_remove(best) }
}

/// What the text may be, the likeliest first.
fn readings(text: &str, allowed: Kinds, fits: &dyn Fn(&Value) -> bool) -> Vec<Value> {
    let trimmed = text.trim();
    let mut found = Vec::new();
    let mut add = |kind: JsonKind, value: &dyn Fn(&str) -> Option<Value>| {
        if allowed.has(kind) {
            found.extend(value(trimmed));
        }
    };
    let is_text = allowed.has(JsonKind::Text);
    // where null is named beside texts, as for Python's `Optional[str]`, models write it so when there is no text
    if !is_text || allowed == Kinds::ALL || trimmed == "null" {
        add(JsonKind::Null, &null);
    }
    add(JsonKind::Boolean, &boolean);
    if allowed.has(JsonKind::Fraction) {
        add(JsonKind::Fraction, &number);
    } else {
        add(JsonKind::Integer, &integer);
    }
    add(JsonKind::Array, &|text| unquoted(text).filter(Value::is_array));
    add(JsonKind::Object, &|text| unquoted(text).filter(Value::is_object));
    if is_text {
        found.push(text.into());
        // a word of a list, with blanks or quotes around it
        let plain = trimmed.trim_matches(['"', '\'']);
        found.extend([trimmed, plain].into_iter().map(Value::from).filter(|word| fits(word)));
        // Python's `None` is a text where any text may be
        found.extend(null(trimmed).filter(|_| allowed.has(JsonKind::Null)));
    }
    found
}

/// An object or a list; some models write it as a JSON text.
fn unquoted(text: &str) -> Option<Value> {
    match text.starts_with('"') {
        true => serde_json::from_str::<String>(text).ok().and_then(|inner| structure(inner.trim())),
        false => structure(text),
    }
}

/// What a tool's schema says of one argument, wherever it says it: behind references, in all and in alternatives.
fn schemas_of<'a>(parameters: &'a Value, key: &str) -> Vec<&'a Value> {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let mut parts = vec![parameters];
    // references may go in circles
    for _ in 0..1_000 {
        let Some(part) = parts.pop() else { break };
        match part.get("properties").and_then(|properties| properties.get(key)) {
            Some(schema) => found.push(schema),
            None => others.extend(part.get("additionalProperties").filter(|schema| **schema != Value::Bool(false))),
        }
        parts.extend(part.get("$ref").and_then(Value::as_str).and_then(|reference| target(parameters, reference)));
        for list in ["allOf", "anyOf", "oneOf"] {
            parts.extend(part.get(list).and_then(Value::as_array).into_iter().flatten());
        }
        parts.extend(["then", "else"].into_iter().filter_map(|key| part.get(key)));
    }
    if found.is_empty() { others } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The value under a schema for the one argument.
    fn value(schema: Value, text: &str) -> Value {
        value_from_text(text, &json!({"type": "object", "properties": {"x": schema}}), "x")
    }

    #[test]
    fn strings_stay_strings() {
        let optional = json!({"anyOf": [{"type": "string"}, {"type": "null"}], "default": null});
        for text in ["12345", "true", "None", "{\"a\": 1}", "[1]", " 5 ", "\"quoted\"", "", "1e3"] {
            for schema in [
                json!({"type": "string"}),
                json!({"type": "str"}),
                json!({"type": ["string", "null"]}),
                optional.clone(),
                json!({"$ref": "#/$defs/none", "type": "string"}),
                json!({"allOf": [{"type": "string"}, {"minLength": 0}]}),
                json!({"type": "string", "format": "uuid"}),
            ] {
                assert_eq!(value(schema.clone(), text), json!(text), "{schema}");
            }
        }
        assert_eq!(value(json!({"type": "string"}), "null"), json!("null"));
        assert_eq!(value(json!({"type": ["string", "null"]}), "null"), json!(null));
        assert_eq!(value(optional, "null"), json!(null));
        assert_eq!(value(json!({"type": "string", "nullable": true}), "null"), json!(null));
        assert_eq!(value(json!({"enum": ["1", "2"]}), "1"), json!("1"));
        assert_eq!(value(json!({"enum": ["true", "false"]}), "true"), json!("true"));
        // no text fits here, so null is null
        assert_eq!(value(json!({"enum": ["a", "b", null]}), "null"), json!(null));
        assert_eq!(value(json!({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}), "None"), json!(null));
        assert_eq!(value(json!({"enum": ["day", "week"]}), " \"week\"\n"), json!("week"));
        assert_eq!(value(json!({"enum": ["day", "week"]}), "year"), json!("year"));
    }

    #[test]
    fn constructs_and_names_of_types_give_the_kind() {
        assert_eq!(value(json!({"allOf": [{"type": "object"}]}), "{\"kind\": \"month\"}"), json!({"kind": "month"}));
        assert_eq!(value(json!({"items": {"type": "integer"}}), "[1, 2]"), json!([1, 2]));
        assert_eq!(value(json!({"enum": [1, 2, 3]}), "3"), json!(3));
        assert_eq!(value(json!({"const": 3}), "3.0"), json!(3));
        assert_eq!(value(json!({"type": "dict"}), "{'theme': 'dark', 'x': None}"), json!({"theme": "dark", "x": null}));
        assert_eq!(value(json!({"type": "list"}), "['a', 'b']"), json!(["a", "b"]));
        assert_eq!(value(json!({"type": "int"}), "5"), json!(5));
        assert_eq!(value(json!({"type": "float"}), "5"), json!(5));
        assert_eq!(value(json!({"type": "bool"}), "True"), json!(true));
        assert_eq!(value(json!({"type": ["integer", "null"]}), "null"), json!(null));
        assert_eq!(value(json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), "None"), json!(null));
        assert_eq!(value(json!({"oneOf": [{"type": "integer"}, {"type": "string"}]}), "12"), json!(12));
        assert_eq!(value(json!({"type": "object"}), "\"{\\\"a\\\": 1}\""), json!({"a": 1}));
        assert_eq!(value(json!({"type": "number"}), "1e3"), json!(1000.0));
        assert_eq!(value(json!({"type": "array", "nullable": true}), "null"), json!(null));
    }

    #[test]
    fn a_schema_that_says_nothing_takes_json() {
        for untyped in [json!({}), json!({"description": "any"}), json!({"type": "any"}), json!(true)] {
            assert_eq!(value(untyped.clone(), "12"), json!(12));
            assert_eq!(value(untyped.clone(), "{'a': 1}"), json!({"a": 1}));
            assert_eq!(value(untyped.clone(), "[true]"), json!([true]));
            assert_eq!(value(untyped.clone(), "null"), json!(null));
            assert_eq!(value(untyped, "[not json"), json!("[not json"));
        }
        // what the schema does not know is text, unless it says of what kind others are
        let closed = json!({"properties": {"a": {"type": "integer"}}});
        assert_eq!(value_from_text("12", &closed, "b"), json!("12"));
        let open = json!({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}});
        assert_eq!(value_from_text("12", &open, "b"), json!(12));
        assert_eq!(value_from_text("12", &Value::Null, "b"), json!("12"));
    }

    #[test]
    fn what_does_not_fit_stays_text() {
        for (schema, text) in [
            (json!({"type": "integer"}), "soon"),
            (json!({"type": "integer"}), "0x10"),
            (json!({"type": "integer"}), "123456789012345678901"),
            (json!({"type": "boolean"}), "maybe"),
            (json!({"type": "array"}), "[1,"),
            (json!({"type": "object"}), "[1]"),
            (json!({"type": "null"}), "nothing"),
            (json!(false), "1"),
            (json!({"anyOf": [{"type": "string"}, {"type": "object", "required": ["a"]}]}), "{\"b\": 1}"),
        ] {
            assert_eq!(value(schema.clone(), text), json!(text), "{schema}");
        }
        // of the right kind, if not all that is asked: a tool can say what is wrong with it
        assert_eq!(value(json!({"type": "object", "required": ["a"]}), "{}"), json!({}));
        assert_eq!(value(json!({"type": "integer", "maximum": 3}), "4"), json!(4));
    }

    #[test]
    fn arguments_are_found_behind_references_and_in_alternatives() {
        let parameters = json!({
            "$ref": "#/$defs/Call",
            "$defs": {
                "Call": {"anyOf": [{"$ref": "#/$defs/ById"}, {"allOf": [{"$ref": "#/$defs/ByName"}]}]},
                "ById": {"properties": {"id": {"$ref": "#/$defs/Id"}}},
                "ByName": {"properties": {"name": {"type": "string"}, "id": {"type": "null"}, "next": {"$ref": "#"}}},
                "Id": {"type": "integer"},
            },
        });
        assert_eq!(value_from_text("7", &parameters, "id"), json!(7));
        assert_eq!(value_from_text("null", &parameters, "id"), json!(null));
        assert_eq!(value_from_text("7", &parameters, "name"), json!("7"));
        assert_eq!(value_from_text("{\"id\": 1}", &parameters, "next"), json!({"id": 1}));
    }

    #[test]
    fn schemas_that_go_in_circles_end() {
        let doubling = json!({
            "properties": {"x": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}]}, "b": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}},
        });
        assert_eq!(value_from_text("[1]", &doubling, "x"), json!([1]));
        let circle = json!({"$ref": "#", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]});
        assert_eq!(value_from_text("1", &circle, "x"), json!("1"));
        let tree = json!({"properties": {"x": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}}}});
        assert_eq!(value_from_text("{\"t\": {\"t\": {}}}", &tree, "x"), json!({"t": {"t": {}}}));
    }
}
