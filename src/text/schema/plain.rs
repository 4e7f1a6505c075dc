//! A client's schema as a grammar can follow it: references at one place, the names of types JSON's own, without what is
//! only said to readers, and not so large that a grammar of it takes long to make.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::joined::{check_depth, check_joined, loosen};
use super::kinds::{JsonKind, Kinds, implied_kind, named_kinds};
use super::patterns::{behind_looks, check_pattern};
use super::references::target;

/// Most schemas within one, each counted once, with the values of their `enum`.
const MOST_PARTS: usize = 10_000;
/// Most work for lists of properties, whose grammars take time by the square of their length: some 1,400 properties.
const MOST_WORK: usize = 2_000_000;
/// What a pattern of a property's name costs, each with each other, beside a name.
const PATTERN_WORK: usize = 100;
/// Most schemas within each other; those behind a reference count on.
pub(super) const MOST_DEPTH: usize = 200;
/// Most that `minItems`, `minLength` and `minProperties` may ask for.
const MOST_LEAST: f64 = 10_000.0;
/// A `maxItems` or `maxLength` above is as good as none: no answer is so long.
const MOST_MOST: f64 = 100_000.0;
/// Integers have this many digits at most, so that they are exact in 64 bits.
const MOST_INTEGER: i64 = 1_000_000_000_000_000_000;

/// The formats that llguidance follows; all others are remarks.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Keywords that say nothing about the value.
pub(super) const REMARKS: [&str; 16] = [
    "$schema",
    "$id",
    "id",
    "$comment",
    "$anchor",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$vocabulary",
];

/// Why a schema cannot be followed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {reason}")]
pub(crate) struct SchemaError {
    /// The way to the part, such as `properties/a`.
    pub place: String,
    /// What was expected, and what was found.
    pub reason: String,
}

/// What becomes of keywords that no grammar follows (`not`, `if`, `contains`, ...), and of keywords with values that make no
/// sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// They are an error: who asks for an answer by a schema relies on it.
    Strict,
    /// They are left out: tools are written by others than those who send them.
    Lenient,
}

/// `node`, a part of `root`, as a schema of its own that llguidance takes.
pub(crate) fn plain(root: &Value, node: &Value, strictness: Strictness) -> Result<Value, SchemaError> {
    let mut writer =
        Writer { root, strictness, parts: 0, work: 0, names: HashMap::new(), waiting: Vec::new(), place: Vec::new() };
    let mut whole = writer.schema(node)?;
    let mut definitions = Map::new();
    while let Some((name, node)) = writer.waiting.pop() {
        writer.place = vec![name.clone()];
        definitions.insert(name, writer.schema(node)?);
    }
    if !definitions.is_empty() {
        match &mut whole {
            Value::Object(whole) => whole.insert("$defs".to_owned(), Value::Object(definitions)),
            _ => None,
        };
    }
    check_depth(&whole)?;
    match check_joined(&whole) {
        // as all that no grammar follows
        Err(_) if strictness == Strictness::Lenient => {
            loosen(&mut whole);
            check_joined(&whole)?;
        }
        checked => checked?,
    }
    Ok(whole)
}

struct Writer<'a> {
    root: &'a Value,
    strictness: Strictness,
    parts: usize,
    work: usize,
    /// Names of definitions, by where the schema is in memory.
    names: HashMap<*const Value, String>,
    waiting: Vec<(String, &'a Value)>,
    place: Vec<String>,
}

type Written<T> = Result<T, SchemaError>;

impl<'a> Writer<'a> {
    fn error<T>(&self, reason: impl Into<String>) -> Written<T> {
        let place = if self.place.is_empty() { "the schema".to_owned() } else { self.place.join("/") };
        Err(SchemaError { place, reason: reason.into() })
    }

    /// An error where that is wanted; otherwise the keyword is left out.
    fn unless_lenient(&self, reason: impl Into<String>) -> Written<()> {
        match self.strictness {
            Strictness::Strict => self.error(reason),
            Strictness::Lenient => Ok(()),
        }
    }

    fn count(&mut self, parts: usize) -> Written<()> {
        self.parts += parts;
        if self.parts > MOST_PARTS {
            return self.error(format!("the schema is too large: more than {MOST_PARTS} schemas and values"));
        }
        Ok(())
    }

    fn within(&mut self, key: &str, node: &'a Value) -> Written<Value> {
        self.place.push(key.to_owned());
        if self.place.len() > MOST_DEPTH {
            return self.error(format!("more than {MOST_DEPTH} schemas stand within each other"));
        }
        let schema = self.schema(node)?;
        self.place.pop();
        Ok(schema)
    }

    fn list(&mut self, key: &str, nodes: &'a [Value]) -> Written<Value> {
        nodes.iter().map(|node| self.within(key, node)).collect()
    }

    fn schema(&mut self, node: &'a Value) -> Written<Value> {
        self.count(1)?;
        let keywords = match node {
            Value::Object(keywords) => keywords,
            Value::Bool(all) => return Ok((*all).into()),
            other => {
                self.unless_lenient(format!("expected a schema (an object, true or false), found {}", brief(other)))?;
                return Ok(json!({}));
            }
        };
        let mut out = Map::new();
        self.kind(node, keywords, &mut out)?;
        for (key, value) in keywords {
            if !self.keyword(key, value, keywords, &mut out)? {
                return Ok(Value::Bool(false));
            }
        }
        bound_integers(&mut out);
        Ok(Value::Object(out))
    }

    /// `type`, or the kind that the other keywords speak of.
    fn kind(&mut self, node: &Value, keywords: &Map<String, Value>, out: &mut Map<String, Value>) -> Written<()> {
        let words = keywords.get("type").map(|kind| kind.as_array().map_or(std::slice::from_ref(kind), Vec::as_slice));
        for word in words.unwrap_or_default() {
            if !word.is_object() && word.as_str().and_then(Kinds::named).is_none() {
                let expected = "string, number, integer, boolean, array, object and null are types";
                self.unless_lenient(format!("{expected}, found {}", brief(word)))?;
                return Ok(());
            }
        }
        let says_more =
            ["$ref", "allOf", "anyOf", "oneOf", "enum", "const"].iter().any(|key| keywords.contains_key(*key));
        let kinds = match named_kinds(node) {
            // a part beside a reference says what the reference does, and would have to be joined with it
            Some(_) if keywords.contains_key("$ref") => return Ok(()),
            Some(kinds) => kinds,
            None if says_more => return Ok(()),
            None => match implied_kind(node) {
                Some(JsonKind::Fraction) => Kinds::of(JsonKind::Integer).or(Kinds::of(JsonKind::Fraction)),
                Some(kind) => Kinds::of(kind),
                None => return Ok(()),
            },
        };
        if let Some(words) = kinds.words() {
            out.insert("type".to_owned(), if let [word] = words[..] { word.into() } else { words.into() });
        }
        Ok(())
    }

    /// Takes one keyword over; `false` where nothing fits the schema.
    fn keyword(
        &mut self,
        key: &str,
        value: &'a Value,
        all: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Written<bool> {
        match (key, value) {
            ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                let reference = self.reference(reference)?;
                put(out, "$ref", reference.into());
            }
            ("enum", Value::Array(values)) if !values.is_empty() => {
                self.count(values.len())?;
                values.iter().try_for_each(|value| self.constant(value))?;
                put(out, "enum", values.clone().into());
            }
            ("const", value) => {
                self.constant(value)?;
                put(out, "const", value.clone());
            }
            ("anyOf" | "oneOf", Value::Array(nodes)) if !nodes.is_empty() => {
                // that only one of them fits is not looked at
                let options = self.list(key, nodes)?;
                match out.contains_key("anyOf") {
                    true => add_all(out, json!({"anyOf": options})),
                    false => put(out, "anyOf", options),
                }
            }
            ("allOf", Value::Array(nodes)) => {
                let Value::Array(parts) = self.list(key, nodes)? else { return Ok(true) };
                parts.into_iter().for_each(|part| add_all(out, part));
            }
            ("not", Value::Bool(true)) => return Ok(false),
            ("not", Value::Object(never)) if never.is_empty() => return Ok(false),
            ("not", Value::Bool(false)) => {}
            ("properties" | "patternProperties", Value::Object(properties)) => {
                self.square(key, properties.len(), if key == "properties" { 1 } else { PATTERN_WORK })?;
                let mut written = Map::new();
                for (name, node) in properties {
                    if key == "properties" || self.pattern(name)? {
                        written.insert(name.clone(), self.within(&format!("{key}/{name}"), node)?);
                    }
                }
                put(out, key, written.into());
            }
            ("additionalProperties", node) => {
                let node = self.within(key, node)?;
                // names of a record may have set it
                out.entry(key).or_insert(node);
            }
            ("propertyNames", names) => self.names_of_properties(names, all, out)?,
            ("unevaluatedProperties", Value::Bool(false)) => self.close(all, out),
            ("required", Value::Array(names)) if names.iter().all(Value::is_string) => {
                self.square("required properties", names.len(), 1)?;
                put(out, key, value.clone());
            }
            // of drafts 3 and 4, where it stands in the property itself
            ("required", Value::Bool(_)) => {}
            ("items", Value::Array(first)) => {
                let first = self.list(key, first)?;
                put(out, "prefixItems", first);
                if let Some(rest) = all.get("additionalItems") {
                    let rest = self.within("additionalItems", rest)?;
                    put(out, "items", rest);
                }
            }
            ("prefixItems", Value::Array(first)) => {
                let first = self.list(key, first)?;
                put(out, key, first);
            }
            ("items", node) => {
                let node = self.within(key, node)?;
                put(out, key, node);
            }
            ("unevaluatedItems", Value::Bool(false)) if all.contains_key("prefixItems") => {
                out.entry("items").or_insert(false.into());
            }
            ("minItems" | "minLength" | "minProperties", Value::Number(number)) => {
                let least = number.as_f64().unwrap_or(f64::MAX);
                if least > MOST_LEAST {
                    return self.error(format!("{key} is {MOST_LEAST} at most here, found {number}"));
                }
                put(out, key, (least.max(0.0).ceil() as u64).into());
            }
            ("maxItems" | "maxLength" | "maxProperties", Value::Number(number)) => {
                let most = number.as_f64().unwrap_or(f64::MAX);
                if most < 0.0 {
                    return Ok(false);
                }
                if most <= MOST_MOST {
                    put(out, key, (most.floor() as u64).into());
                }
            }
            ("pattern", Value::String(pattern)) => {
                // a format says what a look ahead at the begin of its pattern is for; elsewhere much is better than nothing
                let is_format =
                    all.get("format").and_then(Value::as_str).is_some_and(|format| FORMATS.contains(&format));
                let is_enough = is_format || self.strictness == Strictness::Lenient;
                let rest = behind_looks(pattern).filter(|_| is_enough);
                let pattern = rest.unwrap_or_else(|| pattern.clone());
                if (!is_format || check_pattern(&pattern).is_ok()) && self.pattern(&pattern)? {
                    put(out, key, pattern.into());
                    out.shift_remove("format");
                }
            }
            // beside a pattern it says nothing new, and both at once may take long to join
            ("format", Value::String(format)) if FORMATS.contains(&format.as_str()) && !out.contains_key("pattern") => {
                put(out, key, value.clone());
            }
            ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", Value::Number(_) | Value::Bool(_))
            | ("multipleOf", Value::Number(_)) => put(out, key, value.clone()),
            ("unevaluatedItems" | "unevaluatedProperties", Value::Bool(true) | Value::Object(_)) => {}
            (
                "not" | "if" | "contains" | "dependentRequired" | "dependentSchemas" | "dependencies"
                | "unevaluatedItems",
                _,
            ) => self.unless_lenient(format!("the keyword {key:?} cannot be followed; leave it out"))?,
            (
                "$ref" | "enum" | "anyOf" | "oneOf" | "allOf" | "properties" | "patternProperties" | "required"
                | "prefixItems" | "minItems" | "minLength" | "minProperties" | "maxItems" | "maxLength"
                | "maxProperties" | "pattern" | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum"
                | "multipleOf",
                wrong,
            ) if !wrong.is_null() => self.unless_lenient(format!("{key} cannot be {}", brief(wrong)))?,
            // remarks, and `uniqueItems`, which would need a grammar for every order of the items
            _ => {}
        }
        Ok(true)
    }

    /// A reference to the definition that stands for another.
    fn reference(&mut self, reference: &str) -> Written<String> {
        let mut reference = reference;
        for _ in 0..MOST_DEPTH {
            let Some(part) = target(self.root, reference) else {
                return self.error(format!("there is nothing at {reference:?} in this schema"));
            };
            // a definition that is only another's name
            match part.as_object().map(|part| (part.get("$ref").and_then(Value::as_str), part.len())) {
                Some((Some(next), 1)) => reference = next,
                _ => {
                    let next = format!("d{}", self.names.len());
                    let name = self.names.entry(std::ptr::from_ref(part)).or_insert_with(|| {
                        self.waiting.push((next.clone(), part));
                        next
                    });
                    return Ok(format!("#/$defs/{name}"));
                }
            }
        }
        self.error(format!("the reference {reference:?} leads to itself"))
    }

    /// Counts a list of properties.
    fn square(&mut self, what: &str, count: usize, each: usize) -> Written<()> {
        self.work += count.saturating_mul(count).saturating_mul(each);
        if self.work > MOST_WORK {
            return self.error(format!("the schema is too large: {count} {what}"));
        }
        Ok(())
    }

    /// Numbers are compared as floats. A list or an object is as much work as the schema of one.
    fn constant(&mut self, value: &Value) -> Written<()> {
        match value {
            Value::Number(number) if !is_exact(number) => {
                self.error(format!("{number} has too many digits for an enum or a const"))
            }
            Value::Array(items) => {
                self.count(items.len())?;
                items.iter().try_for_each(|item| self.constant(item))
            }
            Value::Object(members) => {
                self.count(members.len())?;
                self.square("members of a constant", members.len(), 1)?;
                members.values().try_for_each(|member| self.constant(member))
            }
            _ => Ok(()),
        }
    }

    /// Whether a pattern can be followed.
    fn pattern(&self, pattern: &str) -> Written<bool> {
        match check_pattern(pattern) {
            Ok(()) => Ok(true),
            Err(reason) => self.unless_lenient(reason).map(|()| false),
        }
    }

    /// `propertyNames`: names of a list, or by a pattern.
    fn names_of_properties(
        &mut self,
        names: &'a Value,
        all: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Written<()> {
        let names = names.get("$ref").and_then(Value::as_str).and_then(|to| target(self.root, to)).unwrap_or(names);
        if all.contains_key("properties") || all.contains_key("patternProperties") {
            return Ok(());
        }
        let always = &Value::Bool(true);
        let value = all.get("additionalProperties").unwrap_or(always);
        let (key, keys): (_, Vec<&str>) = match (names.get("enum").and_then(Value::as_array), names.get("pattern")) {
            (Some(words), _) => ("properties", words.iter().filter_map(Value::as_str).collect()),
            (None, Some(Value::String(pattern))) if self.pattern(pattern)? => {
                ("patternProperties", vec![pattern.as_str()])
            }
            _ => return Ok(()),
        };
        self.square("names of properties", keys.len(), 1)?;
        let mut written = Map::new();
        for name in keys {
            written.insert(name.to_owned(), self.within("propertyNames", value)?);
        }
        out.insert(key.to_owned(), written.into());
        out.insert("additionalProperties".to_owned(), false.into());
        Ok(())
    }

    /// `unevaluatedProperties: false`: no others than those that some part names.
    fn close(&self, all: &'a Map<String, Value>, out: &mut Map<String, Value>) {
        let mut names = Vec::new();
        let mut parts: Vec<&Map<String, Value>> = vec![all];
        for _ in 0..1_000 {
            let Some(part) = parts.pop() else { break };
            let is_whole = std::ptr::eq(part, all);
            if !is_whole && (part.contains_key("patternProperties") || part.contains_key("additionalProperties")) {
                return;
            }
            names.extend(part.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys));
            let referred = part.get("$ref").and_then(Value::as_str).and_then(|to| target(self.root, to));
            let lists = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| part.get(key)?.as_array()).flatten();
            parts.extend(lists.chain(referred).filter_map(Value::as_object));
        }
        out.entry("additionalProperties").or_insert(false.into());
        let own = out.entry("properties").or_insert_with(|| json!({}));
        if let Value::Object(own) = own {
            for name in names {
                own.entry(name).or_insert(true.into());
            }
        }
    }
}

fn put(out: &mut Map<String, Value>, key: &str, value: Value) {
    out.insert(key.to_owned(), value);
}

fn add_all(out: &mut Map<String, Value>, part: Value) {
    if let Value::Array(parts) = out.entry("allOf").or_insert_with(|| json!([])) {
        parts.push(part);
    }
}

/// Keeps integers within what a call's arguments hold exactly.
fn bound_integers(out: &mut Map<String, Value>) {
    let is_integer = match out.get("type") {
        Some(Value::String(word)) => word == "integer",
        Some(Value::Array(words)) => words.iter().any(|word| word == "integer"),
        _ => false,
    };
    if !is_integer || out.contains_key("enum") || out.contains_key("const") {
        return;
    }
    for (bound, exclusive, most) in
        [("minimum", "exclusiveMinimum", -MOST_INTEGER), ("maximum", "exclusiveMaximum", MOST_INTEGER)]
    {
        let beyond = |value: &Value| value.as_f64().is_some_and(|value| value.abs() >= MOST_INTEGER as f64);
        if out.get(exclusive).is_some_and(beyond) {
            out.shift_remove(exclusive);
        }
        if out.get(bound).is_some_and(beyond) || (!out.contains_key(bound) && !out.contains_key(exclusive)) {
            out.insert(bound.to_owned(), most.into());
        }
    }
}

fn is_exact(number: &serde_json::Number) -> bool {
    number.as_i64().is_none_or(|whole| whole as f64 as i128 == i128::from(whole))
        && number.as_u64().is_none_or(|whole| whole as f64 as u128 == u128::from(whole))
}

/// A value, short enough for an error.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
