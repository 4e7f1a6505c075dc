//! Which kinds of JSON a schema allows.

use serde_json::Value;

use super::references::target;

/// Most parts of a schema that are looked at: references may double at every step.
const MOST_STEPS: usize = 2_000;

/// A kind of JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum JsonKind {
    Null = 1,
    Boolean = 2,
    Integer = 4,
    /// Not whole.
    Fraction = 8,
    Text = 16,
    Array = 32,
    Object = 64,
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) const ALL: Self = Self(127);
    pub(crate) const NONE: Self = Self(0);
    const NUMBER: Self = Self(JsonKind::Integer as u8 | JsonKind::Fraction as u8);

    pub(crate) fn of(kind: JsonKind) -> Self {
        Self(kind as u8)
    }

    pub(crate) fn has(self, kind: JsonKind) -> bool {
        self.0 & kind as u8 != 0
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of the other kinds are in it. A whole number is a number.
    pub(crate) fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The kind of a value.
    pub(crate) fn of_value(value: &Value) -> Self {
        Self::of(match value {
            Value::Null => JsonKind::Null,
            Value::Bool(_) => JsonKind::Boolean,
            Value::Number(number) if is_whole(number) => JsonKind::Integer,
            Value::Number(_) => JsonKind::Fraction,
            Value::String(_) => JsonKind::Text,
            Value::Array(_) => JsonKind::Array,
            Value::Object(_) => JsonKind::Object,
        })
    }

    /// What a word of `type` stands for: JSON's own, and what people write from Python, C and databases.
    pub(crate) fn named(word: &str) -> Option<Self> {
        let word = word.trim().to_ascii_lowercase();
        // `list[int]`, `Optional[str]` and `Dict[str, Any]` by what stands before the bracket
        let (head, inner) = word.split_once('[').map_or((word.as_str(), ""), |(head, rest)| (head, rest));
        let inner = inner.strip_suffix(']').unwrap_or(inner);
        Some(match head {
            "null" | "none" | "nonetype" | "nil" => Self::of(JsonKind::Null),
            "boolean" | "bool" => Self::of(JsonKind::Boolean),
            "integer" | "int" | "long" | "short" | "int8" | "int16" | "int32" | "int64" | "uint" | "uint8"
            | "uint16" | "uint32" | "uint64" | "bigint" | "unsigned" => Self::of(JsonKind::Integer),
            "number" | "float" | "double" | "decimal" | "float32" | "float64" | "num" | "real" => Self::NUMBER,
            "string" | "str" | "text" | "varchar" | "char" | "enum" | "date" | "datetime" | "time" | "uuid" | "uri"
            | "url" | "path" | "bytes" | "literal" => Self::of(JsonKind::Text),
            "array" | "list" | "arr" | "tuple" | "set" | "sequence" => Self::of(JsonKind::Array),
            "object" | "dict" | "obj" | "map" | "mapping" | "record" | "struct" | "hash" => Self::of(JsonKind::Object),
            "any" | "mixed" | "unknown" => Self::ALL,
            "optional" => Self::named(inner)?.or(Self::of(JsonKind::Null)),
            _ => return None,
        })
    }

    /// JSON schema's words for the set; `None` for all kinds.
    pub(crate) fn words(self) -> Option<Vec<&'static str>> {
        let number = if self.has(JsonKind::Fraction) { "number" } else { "integer" };
        let kinds = [
            (JsonKind::Text, "string"),
            (JsonKind::Integer, number),
            (JsonKind::Boolean, "boolean"),
            (JsonKind::Array, "array"),
            (JsonKind::Object, "object"),
            (JsonKind::Null, "null"),
        ];
        (self != Self::ALL)
            .then(|| kinds.into_iter().filter(|(kind, _)| self.has(*kind)).map(|(_, word)| word).collect())
    }
}

/// Whether a number is an integer to JSON schema: `5.0` is.
pub(super) fn is_whole(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// The kinds that `type` names, with OpenAPI's `nullable`; `None` where there is no `type`. Words that are not known
/// allow text.
pub(super) fn named_kinds(schema: &Value) -> Option<Kinds> {
    let named = |word: &Value| word.as_str().and_then(Kinds::named).unwrap_or(Kinds::of(JsonKind::Text));
    let kinds = match schema.get("type")? {
        Value::Array(words) => words.iter().fold(Kinds::NONE, |kinds, word| {
            kinds.or(match word {
                // a schema in the list, as in draft 3
                Value::Object(_) => named_kinds(word).unwrap_or(Kinds::ALL),
                _ => named(word),
            })
        }),
        Value::String(_) => named(&schema["type"]),
        _ => return None,
    };
    let is_nullable = schema.get("nullable") == Some(&Value::Bool(true));
    Some(if is_nullable { kinds.or(Kinds::of(JsonKind::Null)) } else { kinds })
}

/// The kind that a schema without `type` speaks of: what has `properties` is meant to be an object.
pub(super) fn implied_kind(schema: &Value) -> Option<JsonKind> {
    let has = |keys: &[&str]| keys.iter().any(|key| schema.get(key).is_some());
    if has(&["properties", "required", "additionalProperties", "patternProperties", "propertyNames"]) {
        Some(JsonKind::Object)
    } else if has(&["items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"]) {
        Some(JsonKind::Array)
    } else if has(&["minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"]) {
        Some(JsonKind::Text)
    } else if has(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
        Some(JsonKind::Fraction)
    } else {
        None
    }
}

/// The kinds of JSON that `schema`, a part of `root`, allows; all where it says nothing.
pub(crate) fn kinds(root: &Value, schema: &Value) -> Kinds {
    kinds_within(root, schema, &mut 0, 0)
}

fn kinds_within(root: &Value, schema: &Value, steps: &mut usize, depth: usize) -> Kinds {
    *steps += 1;
    if *steps > MOST_STEPS || depth > 32 {
        return Kinds::ALL;
    }
    if schema == &Value::Bool(false) {
        return Kinds::NONE;
    }
    let mut of = |part: &Value| kinds_within(root, part, steps, depth + 1);
    let mut found = named_kinds(schema).unwrap_or(Kinds::ALL);
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        found = found.and(values.iter().fold(Kinds::NONE, |kinds, value| kinds.or(Kinds::of_value(value))));
    }
    if let Some(value) = schema.get("const") {
        found = found.and(Kinds::of_value(value));
    }
    if let Some(part) = schema.get("$ref").and_then(Value::as_str).and_then(|reference| target(root, reference)) {
        found = found.and(of(part));
    }
    for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        found = found.and(of(part));
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(parts) = schema.get(key).and_then(Value::as_array) {
            found = found.and(parts.iter().fold(Kinds::NONE, |kinds, part| kinds.or(of(part))));
        }
    }
    match implied_kind(schema) {
        Some(JsonKind::Fraction) if found == Kinds::ALL => Kinds::NUMBER,
        Some(kind) if found == Kinds::ALL => Kinds::of(kind),
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(schema: Value) -> Vec<&'static str> {
        kinds(&schema, &schema).words().unwrap_or(vec!["all"])
    }

    #[test]
    fn kinds_come_from_every_construct() {
        assert_eq!(words(json!({})), ["all"]);
        assert_eq!(words(json!({"description": "x"})), ["all"]);
        assert_eq!(words(json!({"type": "int"})), ["integer"]);
        assert_eq!(words(json!({"type": ["float", "null"]})), ["number", "null"]);
        assert_eq!(words(json!({"type": "STRING", "nullable": true})), ["string", "null"]);
        assert_eq!(words(json!({"type": "Optional[list]"})), ["array", "null"]);
        assert_eq!(words(json!({"type": "Dict[str, int]"})), ["object"]);
        assert_eq!(words(json!({"type": "any"})), ["all"]);
        assert_eq!(words(json!({"type": "fish"})), ["string"]);
        assert_eq!(words(json!({"enum": [1, "a", null, 2.5]})), ["string", "number", "null"]);
        assert_eq!(words(json!({"type": "string", "enum": ["a", null]})), ["string"]);
        assert_eq!(words(json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "object"}}})), ["object"]);
        assert_eq!(words(json!({"anyOf": [{"type": "string"}, {"const": 3}]})), ["string", "integer"]);
        assert_eq!(words(json!({"items": {}})), ["array"]);
        assert_eq!(words(json!({"minimum": 3})), ["number"]);
        // a circle, and one that doubles at every step
        assert_eq!(words(json!({"$ref": "#"})), ["all"]);
        assert_eq!(words(json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})), ["all"]);
    }
}
