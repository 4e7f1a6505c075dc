//! Methods of Python's types, for what is no string: dictionaries, lists, tuples, numbers, bytes.
//!
//! Those that change a list or dictionary are missing: the sandbox of transformers refuses them, too.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{Arguments, invalid, short};
use super::operators::items;
use super::python_text::is_dict;
use super::string_methods::{STRING_METHODS, string_method};

const DICT_METHODS: &[&str] =
    &["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
const LIST_METHODS: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const TUPLE_METHODS: &[&str] = &["count", "index"];

/// Whether a type of Python has a method `name`.
pub(super) fn is_method_name(name: &str) -> bool {
    [DICT_METHODS, LIST_METHODS, STRING_METHODS].iter().any(|methods| methods.contains(&name))
}

/// A method that is not called, as in `schema.items is mapping`: it is true, and no item of the dictionary.
#[derive(Debug)]
pub(super) struct BoundMethod {
    value: Value,
    name: String,
}

impl BoundMethod {
    /// The method `name` of `value`, if its type has one.
    pub(super) fn of(value: &Value, name: &str) -> Option<Self> {
        let methods = match value.kind() {
            ValueKind::String => STRING_METHODS,
            ValueKind::Map if is_dict(value) => DICT_METHODS,
            ValueKind::Seq | ValueKind::Iterable if value.is_tuple() => TUPLE_METHODS,
            ValueKind::Seq | ValueKind::Iterable => LIST_METHODS,
            _ => return None,
        };
        methods.contains(&name).then(|| BoundMethod { value: value.clone(), name: name.to_owned() })
    }
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        self.value.call_method(state, &self.name, arguments)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {}>", self.name)
    }
}

/// Calls `value.name(...)`; an error of the kind "unknown method" where there is none.
pub(super) fn call_method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    given: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => string_method(state, value, name, given),
        ValueKind::Map if is_dict(value) => dict_method(value, name, given),
        ValueKind::Seq | ValueKind::Iterable => list_method(value, name, given),
        ValueKind::Number => number_method(value, name, given),
        ValueKind::Bytes => bytes_method(value, name, given),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// The pairs of a dictionary, in their order.
pub(super) fn pairs(dict: &Value) -> Result<Vec<(Value, Value)>, Error> {
    items(dict)?.into_iter().map(|key| dict.get_item(&key).map(|value| (key, value))).collect()
}

fn dict_method(dict: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    let mut arguments = Arguments::new(name, given);
    let result = match name {
        "get" => {
            let key = arguments.required("key")?;
            let default = arguments.optional("default").unwrap_or_else(|| Value::from(()));
            dict.as_object().and_then(|object| object.get_value(&key)).unwrap_or(default)
        }
        "keys" => Value::from(items(dict)?),
        "values" => pairs(dict)?.into_iter().map(|(_, value)| value).collect(),
        "items" => pairs(dict)?.into_iter().map(|(key, value)| Value::from(Tuple::from([key, value]))).collect(),
        "copy" => dict.clone(),
        _ if DICT_METHODS.contains(&name) => return Err(immutable(name)),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    arguments.end()?;
    Ok(result)
}

fn list_method(list: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    let mut arguments = Arguments::new(name, given);
    let result = match name {
        "count" => {
            let wanted = arguments.required("value")?;
            Value::from(items(list)?.iter().filter(|item| **item == wanted).count())
        }
        "index" => {
            let wanted = arguments.required("value")?;
            let all = items(list)?;
            let bound = |bound: i64| match bound {
                ..0 => all.len().saturating_sub(usize::try_from(bound.unsigned_abs()).unwrap_or(usize::MAX)),
                _ => usize::try_from(bound).unwrap_or(usize::MAX).min(all.len()),
            };
            let start = arguments.integer("start")?.map_or(0, bound);
            let stop = arguments.integer("stop")?.map_or(all.len(), bound);
            let inside = all.get(start..stop).unwrap_or_default();
            match inside.iter().position(|item| *item == wanted) {
                Some(index) => Value::from(start + index),
                None => return Err(invalid(format!("{} is not in the list", short(&wanted)))),
            }
        }
        "copy" if !list.is_tuple() => list.clone(),
        _ if LIST_METHODS.contains(&name) => return Err(immutable(name)),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    arguments.end()?;
    Ok(result)
}

fn immutable(name: &str) -> Error {
    invalid(format!("`{name}` would change a value, which templates may not"))
}

fn number_method(number: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    let result = match name {
        "is_integer" => f64::try_from(number.clone()).is_ok_and(|number| number.fract() == 0.0).into(),
        "bit_length" if number.is_integer() => {
            let magnitude = i128::try_from(number.clone()).unwrap_or_default().unsigned_abs();
            Value::from(u128::BITS - magnitude.leading_zeros())
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    Arguments::new(name, given).end()?;
    Ok(result)
}

fn bytes_method(bytes: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    let mut arguments = Arguments::new(name, given);
    let bytes = bytes.as_bytes().unwrap_or_default();
    let result = match name {
        "decode" => {
            arguments.text("encoding")?;
            let errors = arguments.text("errors")?;
            match (std::str::from_utf8(bytes), errors.as_deref()) {
                (Ok(text), _) => Value::from(text),
                (Err(_), Some("replace" | "ignore")) => Value::from(String::from_utf8_lossy(bytes).into_owned()),
                (Err(error), _) => return Err(invalid(format!("decode: {error}"))),
            }
        }
        "hex" => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    arguments.end()?;
    Ok(result)
}
