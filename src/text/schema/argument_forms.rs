//! The arguments that a tool takes, from its `parameters`: one list of them, or several where the schema has alternatives.

use serde_json::{Map, Value, json};

use super::kinds::{JsonKind, named_kinds};
use super::plain::SchemaError;
use super::references::target;

/// Most alternatives: every list of alternatives multiplies them.
const MOST_FORMS: usize = 64;
const MOST_DEPTH: usize = 32;

/// Arguments that go together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ArgumentForm {
    /// Names and schemas, in the order in which they are written. The schemas' references start at the tool's.
    pub arguments: Map<String, Value>,
    /// Names of those that must come; each is among `arguments`.
    pub required: Vec<String>,
    /// The schema of arguments of any name: only where the schema names none itself.
    pub others: Option<Value>,
    /// How many of the others must come.
    pub least: usize,
}

impl ArgumentForm {
    /// A form for each choice of optional arguments that makes `least` of all. Where there are too many choices, or too few
    /// arguments, it stays as it is.
    fn of_at_least(self, least: usize) -> Vec<ArgumentForm> {
        let optional: Vec<&String> = self.arguments.keys().filter(|key| !self.required.contains(key)).collect();
        let mut chosen: Vec<Vec<&String>> = vec![self.required.iter().collect()];
        if least > self.arguments.len() {
            return vec![self];
        }
        for at in self.required.len()..least {
            let more = chosen.iter().flat_map(|keys| {
                // in the order of the schema, so that no choice comes twice
                let last =
                    keys[self.required.len()..].last().and_then(|last| optional.iter().position(|key| key == last));
                let next = last.map_or(0, |last| last + 1)..optional.len() - (least - 1 - at);
                optional[next].iter().map(|key| [keys.as_slice(), &[*key]].concat()).collect::<Vec<_>>()
            });
            chosen = more.take(MOST_FORMS + 1).collect();
            if chosen.len() > MOST_FORMS {
                return vec![self];
            }
        }
        let form = |keys: Vec<&String>| ArgumentForm { required: keys.into_iter().cloned().collect(), ..self.clone() };
        chosen.into_iter().map(form).collect()
    }
}

/// The forms of `parameters`. Arguments that the schema does not name are allowed only where it names none and says what
/// others are.
pub(crate) fn argument_forms(parameters: &Value) -> Result<Vec<ArgumentForm>, SchemaError> {
    let parts = parts(parameters, parameters, 0)?;
    let mut forms: Vec<ArgumentForm> = Vec::new();
    for form in parts.into_iter().filter_map(Part::form).flatten() {
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    if forms.is_empty() {
        return Err(error("no arguments fit the schema of the tool"));
    }
    Ok(forms)
}

fn error(reason: &str) -> SchemaError {
    SchemaError { place: "parameters".to_owned(), reason: reason.to_owned() }
}

/// What one part of a schema says of an object.
#[derive(Clone, Default)]
struct Part {
    properties: Map<String, Value>,
    required: Vec<String>,
    /// `additionalProperties`, unless it is absent.
    others: Option<Value>,
    /// `minProperties`.
    least: usize,
}

impl Part {
    fn both(mut self, other: Part) -> Part {
        for (key, schema) in other.properties {
            let schema = match (self.properties.get(&key), &self.others) {
                (Some(own), _) if *own == schema || schema == true => own.clone(),
                (Some(own), _) if *own == true => schema,
                (Some(own), _) => json!({"allOf": [own, schema]}),
                (None, Some(Value::Bool(false))) => Value::Bool(false),
                (None, _) => schema,
            };
            self.properties.insert(key, schema);
        }
        for key in other.required {
            if !self.required.contains(&key) {
                self.required.push(key);
            }
        }
        self.least = self.least.max(other.least);
        self.others = match (self.others, other.others) {
            (Some(Value::Bool(false)), _) | (_, Some(Value::Bool(false))) => Some(false.into()),
            (own, other) => own.or(other),
        };
        self
    }

    /// The form, or one for each choice of optional arguments of which some must come; `None` where something is required
    /// that cannot be.
    fn form(self) -> Option<Vec<ArgumentForm>> {
        let mut arguments = self.properties;
        for key in &self.required {
            if !arguments.contains_key(key) {
                arguments.insert(key.clone(), self.others.clone().unwrap_or(true.into()));
            }
        }
        if self.required.iter().any(|key| arguments.get(key) == Some(&Value::Bool(false))) {
            return None;
        }
        arguments.retain(|_, schema| *schema != false);
        let others = self.others.filter(|others| arguments.is_empty() && *others != false);
        let least = if others.is_some() { self.least } else { 0 };
        let form = ArgumentForm { arguments, required: self.required, others, least };
        Some(form.of_at_least(self.least))
    }
}

/// The alternatives of a schema.
fn parts(root: &Value, schema: &Value, depth: usize) -> Result<Vec<Part>, SchemaError> {
    if depth > MOST_DEPTH {
        return Err(error("the schema of the tool refers to itself"));
    }
    let is_object = named_kinds(schema).is_none_or(|kinds| kinds.has(JsonKind::Object));
    if schema == false || !is_object {
        return Ok(Vec::new());
    }
    let member = |key: &str| schema.get(key);
    let properties = member("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let required = member("required").and_then(Value::as_array).into_iter().flatten();
    let mut found = vec![Part {
        properties,
        required: required.filter_map(Value::as_str).map(str::to_owned).collect(),
        others: member("additionalProperties").cloned(),
        least: member("minProperties").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
    }];
    let mut join = |options: Vec<Part>| {
        if found.len() * options.len() > MOST_FORMS {
            return Err(error("the schema of the tool has too many alternatives: 64 at most"));
        }
        found = found.iter().flat_map(|part| options.iter().map(|option| part.clone().both(option.clone()))).collect();
        Ok(())
    };
    if let Some(reference) = member("$ref").and_then(Value::as_str) {
        let part = target(root, reference).ok_or_else(|| error(&format!("there is nothing at {reference:?}")))?;
        join(parts(root, part, depth + 1)?)?;
    }
    for part in member("allOf").and_then(Value::as_array).into_iter().flatten() {
        join(parts(root, part, depth + 1)?)?;
    }
    for list in ["anyOf", "oneOf"] {
        let Some(options) = member(list).and_then(Value::as_array).filter(|options| !options.is_empty()) else {
            continue;
        };
        let mut alternatives = Vec::new();
        for option in options {
            alternatives.extend(parts(root, option, depth + 1)?);
            if alternatives.len() > MOST_FORMS {
                return Err(error("the schema of the tool has too many alternatives: 64 at most"));
            }
        }
        join(alternatives)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(parameters: Value) -> Vec<(Vec<String>, Vec<String>)> {
        let forms = argument_forms(&parameters).expect("forms");
        forms.into_iter().map(|form| (form.arguments.keys().cloned().collect(), form.required)).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn references_and_parts_are_put_together() {
        let root = json!({"$ref": "#/$defs/P", "$defs": {"P": {"properties": {"a": {}, "b": {}}, "required": ["b"]}}});
        assert_eq!(forms(root), [(names(&["a", "b"]), names(&["b"]))]);
        let all =
            json!({"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}, "required": ["a"]}]});
        assert_eq!(forms(all), [(names(&["a", "b"]), names(&["a"]))]);
        assert_eq!(forms(json!({})), [(names(&[]), names(&[]))]);
        assert_eq!(forms(Value::Null), [(names(&[]), names(&[]))]);
        assert_eq!(forms(json!({"required": ["x"]})), [(names(&["x"]), names(&["x"]))]);
    }

    #[test]
    fn alternatives_are_forms() {
        let either = json!({
            "type": "object", "properties": {"a": {}, "b": {}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}, {"type": "null"}],
        });
        assert_eq!(forms(either), [(names(&["a", "b"]), names(&["a"])), (names(&["a", "b"]), names(&["b"]))]);
        let closed = json!({
            "additionalProperties": false, "properties": {"a": {}}, "oneOf": [{"required": ["b"]}, {"properties": {"a": {"type": "integer"}}}],
        });
        // `b` can never come
        assert_eq!(forms(closed), [(names(&["a"]), names(&[]))]);
    }

    #[test]
    fn some_of_the_optional_arguments_may_have_to_come() {
        let least = |least: u64, required: Value| json!({"properties": {"a": {}, "b": {}, "c": {}}, "required": required, "minProperties": least});
        let required =
            |parameters: Value| -> Vec<Vec<String>> { forms(parameters).into_iter().map(|form| form.1).collect() };
        assert_eq!(required(least(1, json!([]))), [["a"], ["b"], ["c"]]);
        assert_eq!(required(least(2, json!([]))), [["a", "b"], ["a", "c"], ["b", "c"]]);
        assert_eq!(required(least(2, json!(["b"]))), [["b", "a"], ["b", "c"]]);
        assert_eq!(required(least(3, json!(["b"]))), [["b", "a", "c"]]);
        assert_eq!(required(least(1, json!(["b"]))), [["b"]]);
        // what cannot be, and what would be too many forms, is passed over
        assert_eq!(required(least(4, json!([]))), [names(&[])]);
        let many: Map<String, Value> = (0..40).map(|n| (format!("k{n}"), json!({}))).collect();
        assert_eq!(required(json!({"properties": many, "minProperties": 20})), [names(&[])]);
        let others = json!({"additionalProperties": {"type": "integer"}, "minProperties": 2});
        assert_eq!(argument_forms(&others).expect("forms").remove(0).least, 2);
    }

    #[test]
    fn other_arguments_need_a_schema_without_names() {
        let others = |parameters: Value| argument_forms(&parameters).expect("forms").remove(0).others;
        assert_eq!(others(json!({"additionalProperties": {"type": "integer"}})), Some(json!({"type": "integer"})));
        assert_eq!(others(json!({"properties": {"a": {}}, "additionalProperties": {}})), None);
        assert_eq!(others(json!({"type": "object"})), None);
        assert_eq!(others(json!({"additionalProperties": false})), None);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        for bad in [
            json!(false),
            json!({"type": "string"}),
            json!({"$ref": "#"}),
            json!({"$ref": "#/$defs/none"}),
            json!({"properties": {"a": false}, "required": ["a"]}),
            json!({"allOf": vec![json!({"anyOf": vec![json!({}); 9]}); 9]}),
        ] {
            assert!(argument_forms(&bad).is_err(), "{bad}");
        }
    }
}
