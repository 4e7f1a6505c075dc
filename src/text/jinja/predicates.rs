//! The tests of jinja2 (`x is iterable`) that the engine lacks or answers otherwise.

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, Value};

use super::arguments::{invalid, short};
use super::globals::is_callable;
use super::python_text::is_dict;

/// Makes the tests known.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            // iterating over what is undefined gives nothing, so it can be iterated
            ValueKind::Undefined | ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Iterable
        ) || is_dict(value)
    });
    environment.add_test("sequence", |value: &Value| {
        // what has a length and items by key: jinja2 asks no more
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Iterable
        ) || is_dict(value)
    });
    environment.add_test("mapping", |value: &Value| is_dict(value));
    environment.add_test("callable", |value: &Value| is_callable(value));
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("integer", |value: &Value| value.is_integer() && value.kind() == ValueKind::Number);
    environment.add_test("float", |value: &Value| value.kind() == ValueKind::Number && !value.is_integer());
    environment.add_test("none", |value: &Value| value.is_none());
    environment.add_test("escaped", |value: &Value| value.is_safe());
    environment.add_test("lower", |value: &Value| {
        value.as_str().is_some_and(|text| text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))
    });
    environment.add_test("upper", |value: &Value| {
        value.as_str().is_some_and(|text| text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))
    });
    environment.add_test("in", |value: &Value, rest: Rest<Value>| -> Result<bool, Error> {
        let [all] = rest.as_slice() else { return Err(invalid("in: expected one argument")) };
        super::operators::contains(all, value)
    });
    environment.add_test("sameas", |value: &Value, other: &Value| same(value, other));
    environment.add_test("divisibleby", |value: &Value, by: &Value| -> Result<bool, Error> {
        match (i128::try_from(value.clone()), i128::try_from(by.clone())) {
            (Ok(value), Ok(by)) if by != 0 => Ok(value % by == 0),
            _ => Err(invalid(format!("divisibleby: no division of {} by {}", short(value), short(by)))),
        }
    });
}

/// `value is other` of Python, for what templates compare so: none, true, false and small values.
fn same(value: &Value, other: &Value) -> bool {
    value.kind() == other.kind() && value.is_integer() == other.is_integer() && value == other
}
