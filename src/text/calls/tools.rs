//! The functions that may be called.

use serde_json::{Map, Value};

/// Functions as OpenAI describes them: `{"type": "function", "function": {"name", "parameters"}}`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools(pub(crate) Vec<Value>);

impl Tools {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a function of this name is offered.
    pub(super) fn has(&self, name: &str) -> bool {
        self.function(name).is_some()
    }

    /// The schema of a function's parameters; null where there is none.
    pub(super) fn parameters(&self, name: &str) -> &Value {
        self.function(name).and_then(|function| function.get("parameters")).unwrap_or(&Value::Null)
    }

    /// Whether the schema of a function names this parameter.
    pub(super) fn knows(&self, name: &str, key: &str) -> bool {
        self.property(name, key).is_some()
    }

    /// Whether the schema of a function names any parameter.
    pub(super) fn has_parameters(&self, name: &str) -> bool {
        self.parameters(name).get("properties").and_then(Value::as_object).is_some_and(|keys| !keys.is_empty())
    }

    /// Whether a parameter is a text, whatever is written: then it can be told while it comes.
    pub(super) fn is_text(&self, name: &str, key: &str) -> bool {
        let is_plain = |schema: &Map<String, Value>| {
            ["$ref", "allOf", "anyOf", "oneOf", "enum", "const", "nullable"]
                .iter()
                .all(|key| !schema.contains_key(*key))
        };
        let schema = self.property(name, key).and_then(Value::as_object);
        schema.is_some_and(|schema| schema.get("type") == Some(&Value::from("string")) && is_plain(schema))
    }

    fn property(&self, name: &str, key: &str) -> Option<&Value> {
        self.parameters(name).get("properties")?.get(key)
    }

    fn function(&self, name: &str) -> Option<&Value> {
        let functions = self.0.iter().map(|tool| tool.get("function").unwrap_or(tool));
        functions.into_iter().find(|function| function.get("name").and_then(Value::as_str) == Some(name))
    }
}
