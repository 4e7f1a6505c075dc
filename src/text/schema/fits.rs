//! Whether a value is one that a schema allows.

use serde_json::{Map, Value};

use super::kinds::{Kinds, named_kinds};
use super::references::target;

/// Most steps: references may double at every one.
const MOST_STEPS: usize = 20_000;

/// Whether `schema`, a part of `root`, allows a value. It is what tells readings of a text apart, no whole validator:
/// patterns, formats, `not` and conditions are passed over, and a schema that goes on too long allows what is left.
pub(super) fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    Checker { root, steps: 0 }.fits(schema, value, 0)
}

struct Checker<'a> {
    root: &'a Value,
    steps: usize,
}

impl Checker<'_> {
    fn fits(&mut self, schema: &Value, value: &Value, depth: usize) -> bool {
        self.steps += 1;
        if self.steps > MOST_STEPS || depth > 64 {
            return true;
        }
        let Value::Object(keywords) = schema else { return schema != &Value::Bool(false) };
        let kind = Kinds::of_value(value);
        if named_kinds(schema).is_some_and(|allowed| !allowed.includes(kind)) {
            return false;
        }
        let list = |key: &str| keywords.get(key).and_then(Value::as_array);
        if list("enum").is_some_and(|values| !values.iter().any(|one| same(one, value))) {
            return false;
        }
        if keywords.get("const").is_some_and(|one| !same(one, value)) {
            return false;
        }
        let referred = keywords.get("$ref").and_then(Value::as_str).and_then(|to| target(self.root, to));
        if referred.is_some_and(|part| !self.fits(part, value, depth + 1)) {
            return false;
        }
        if list("allOf").is_some_and(|parts| !parts.iter().all(|part| self.fits(part, value, depth + 1))) {
            return false;
        }
        for key in ["anyOf", "oneOf"] {
            if list(key).is_some_and(|parts| !parts.iter().any(|part| self.fits(part, value, depth + 1))) {
                return false;
            }
        }
        match value {
            Value::Object(members) => self.fits_object(keywords, members, depth),
            Value::Array(items) => self.fits_array(keywords, items, depth),
            Value::String(text) => within(keywords, "minLength", "maxLength", || text.chars().count()),
            Value::Number(number) => number.as_f64().is_none_or(|number| number_fits(keywords, number)),
            Value::Null | Value::Bool(_) => true,
        }
    }

    fn fits_object(&mut self, keywords: &Map<String, Value>, members: &Map<String, Value>, depth: usize) -> bool {
        let required = keywords.get("required").and_then(Value::as_array).into_iter().flatten();
        if required.filter_map(Value::as_str).any(|key| !members.contains_key(key)) {
            return false;
        }
        let has_patterns = keywords.contains_key("patternProperties");
        members.iter().all(|(key, value)| match keywords.get("properties").and_then(|properties| properties.get(key)) {
            Some(part) => self.fits(part, value, depth + 1),
            None if has_patterns => true,
            None => keywords.get("additionalProperties").is_none_or(|part| self.fits(part, value, depth + 1)),
        }) && within(keywords, "minProperties", "maxProperties", || members.len())
    }

    fn fits_array(&mut self, keywords: &Map<String, Value>, items: &[Value], depth: usize) -> bool {
        let first = keywords.get("prefixItems").or_else(|| keywords.get("items")).and_then(Value::as_array);
        let first = first.map_or(&[][..], Vec::as_slice);
        let rest = keywords.get("items").filter(|part| !part.is_array()).or_else(|| keywords.get("additionalItems"));
        items
            .iter()
            .enumerate()
            .all(|(i, item)| first.get(i).or(rest).is_none_or(|part| self.fits(part, item, depth + 1)))
            && within(keywords, "minItems", "maxItems", || items.len())
    }
}

fn within(keywords: &Map<String, Value>, least: &str, most: &str, count: impl Fn() -> usize) -> bool {
    let limit = |key: &str| keywords.get(key).and_then(Value::as_f64);
    limit(least).is_none_or(|least| count() as f64 >= least) && limit(most).is_none_or(|most| count() as f64 <= most)
}

fn number_fits(keywords: &Map<String, Value>, number: f64) -> bool {
    let limit = |key: &str| keywords.get(key).and_then(Value::as_f64);
    limit("minimum").is_none_or(|least| number >= least)
        && limit("maximum").is_none_or(|most| number <= most)
        && limit("exclusiveMinimum").is_none_or(|least| number > least)
        && limit("exclusiveMaximum").is_none_or(|most| number < most)
}

/// Whether two values are the same to JSON schema: `1` and `1.0` are.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}
