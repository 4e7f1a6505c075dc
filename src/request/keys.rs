//! The keys of a request's body, taken one after the other: each error names its key, a key may have several names, and
//! what nobody took is known in the end.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::RequestError;

/// What is left of a body.
#[derive(Clone, Debug, Default)]
pub(crate) struct BodyKeys(Map<String, Value>);

impl BodyKeys {
    /// # Errors
    /// A body that is no object.
    pub(crate) fn new(body: Value) -> Result<Self, RequestError> {
        match body {
            Value::Object(keys) => Ok(BodyKeys(keys)),
            other => Err(RequestError::invalid(format!("expected a JSON object, found {}", kind_of(&other)))),
        }
    }

    /// The value of a key; `null` is as good as none.
    pub(crate) fn value(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(key).filter(|value| !value.is_null())
    }

    /// The value of a key that has several names: of the first that is there; the others are taken as well.
    pub(crate) fn any_value(&mut self, names: &[&'static str]) -> Option<(&'static str, Value)> {
        let found: Vec<_> = names.iter().filter_map(|name| Some((*name, self.value(name)?))).collect();
        found.into_iter().next()
    }

    /// # Errors
    /// A value of another type.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, RequestError> {
        self.value(key).map(|value| typed(key, value)).transpose()
    }

    /// As [`get`](Self::get), of a key with several names.
    pub(crate) fn any<T: DeserializeOwned>(&mut self, names: &[&'static str]) -> Result<Option<T>, RequestError> {
        self.any_value(names).map(|(name, value)| typed(name, value)).transpose()
    }

    /// A number of tokens or of answers: `5`, `5.0`; what is negative is no limit, as in llama.cpp and LM Studio.
    pub(crate) fn count(&mut self, names: &[&'static str]) -> Result<Option<usize>, RequestError> {
        let Some((name, value)) = self.any_value(names) else { return Ok(None) };
        match whole_number(&value) {
            Some(number) if number < 0 => Ok(None),
            // more than fits is as good as the most that does
            Some(number) => Ok(Some(usize::try_from(number).unwrap_or(usize::MAX))),
            None => Err(mismatch(name, "a whole number", &value)),
        }
    }

    /// Whether there is a value that says something: not `null`, `false`, 0, or empty.
    pub(crate) fn says(&mut self, key: &str) -> bool {
        match self.value(key) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(keys)) => !keys.is_empty(),
            Some(_) => true,
        }
    }

    /// Whether a key is there.
    #[cfg(feature = "server")]
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !value.is_null())
    }

    /// The keys that nobody took.
    #[cfg(any(feature = "server", test))]
    pub(crate) fn rest(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// A value as `T`.
pub(crate) fn typed<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, RequestError> {
    T::deserialize(value).map_err(|e| RequestError::invalid(format!("{key}: {e}")).at(key))
}

/// A number without a fraction, as JavaScript may write it.
pub(crate) fn whole_number(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    let exact = number.as_i128();
    exact.or_else(|| number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e30).map(|n| n as i128))
}

pub(crate) fn mismatch(key: &str, expected: &str, found: &Value) -> RequestError {
    RequestError::invalid(format!("{key}: expected {expected}, found {}", kind_of(found))).at(key)
}

/// What a value is, for people.
pub(crate) fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_taken_once() {
        let body = json!({"a": 5.0, "b": -1, "c": null, "d": "x", "old": 1, "new": 2, "more": true, "zero": 0});
        let mut keys = BodyKeys::new(body).unwrap();
        assert_eq!((keys.count(&["a"]).unwrap(), keys.count(&["b"]).unwrap()), (Some(5), None));
        assert_eq!(keys.get::<bool>("c").unwrap(), None);
        let error = keys.get::<bool>("d").unwrap_err();
        assert_eq!((error.field.as_deref(), error.message.starts_with("d: invalid type")), (Some("d"), true));
        assert_eq!(keys.count(&["new", "old"]).unwrap(), Some(2));
        assert!(!keys.says("zero"));
        assert_eq!(keys.rest().collect::<Vec<_>>(), ["more"]);
        assert!(BodyKeys::new(json!([1])).unwrap_err().message.contains("found a list"));
    }
}
