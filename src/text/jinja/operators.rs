//! Python's operators: what [`rewrite`](super::rewrite) puts into the place of the engine's own.

use std::cmp::Ordering;

use minijinja::value::{Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, Value};

use super::arguments::{integer, invalid, short, undefined};
use super::format::percent;
use super::limits::{check_items, check_text};
use super::methods::BoundMethod;
use super::python_text::{python_str, text_of};

/// Makes the functions known that a rewritten template calls.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_function("__add", |operands: Rest<Value>| fold(&operands, add));
    environment.add_function("__concat", |operands: Rest<Value>| concat(&operands));
    environment.add_function("__mul", |operands: Rest<Value>| fold(&operands, multiply));
    environment.add_function("__mod", |operands: Rest<Value>| fold(&operands, modulo));
    environment.add_function("__in", |operands: Rest<Value>| {
        fold(&operands, |item, all| contains(all, item).map(Value::from))
    });
    environment.add_function("__lt", |operands: Rest<Value>| compare(&operands, "<", Ordering::is_lt));
    environment.add_function("__le", |operands: Rest<Value>| compare(&operands, "<=", Ordering::is_le));
    environment.add_function("__gt", |operands: Rest<Value>| compare(&operands, ">", Ordering::is_gt));
    environment.add_function("__ge", |operands: Rest<Value>| compare(&operands, ">=", Ordering::is_ge));
    environment.add_function("__slice", |operands: Rest<Value>| slice(&operands));
    environment.add_function("__iter", |operands: Rest<Value>| iterable(&operands));
    environment.add_function("__attribute", |operands: Rest<Value>| attribute(&operands));
    environment.add_function("__item", |operands: Rest<Value>| item(&operands));
}

fn fold(operands: &[Value], mut step: impl FnMut(&Value, &Value) -> Result<Value, Error>) -> Result<Value, Error> {
    let (first, rest) = operands.split_first().ok_or_else(undefined)?;
    rest.iter().try_fold(first.clone(), |left, right| step(&left, right))
}

fn no_operator(operator: &str, left: &Value, right: &Value) -> Error {
    invalid(format!("no `{operator}` between {} and {}", short(left), short(right)))
}

/// Two numbers as Python widens them.
enum Numbers {
    Integers(i128, i128),
    Floats(f64, f64),
}

fn numbers(left: &Value, right: &Value) -> Option<Numbers> {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number(left) || !is_number(right) {
        return None;
    }
    let whole = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(Numbers::Integers(left, right)),
        (left_whole, right_whole) => Some(Numbers::Floats(
            left_whole.map_or_else(|| f64::try_from(left.clone()).ok(), |whole| Some(whole as f64))?,
            right_whole.map_or_else(|| f64::try_from(right.clone()).ok(), |whole| Some(whole as f64))?,
        )),
    }
}

fn whole(value: Option<i128>) -> Result<Value, Error> {
    let value = value.ok_or_else(|| invalid("an integer of more than 127 bits"))?;
    Ok(i64::try_from(value).map_or_else(|_| Value::from(value), Value::from))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// The items of a list or tuple.
pub(super) fn items(value: &Value) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for item in value.try_iter()?.checked() {
        items.push(item?);
        check_items(items.len())?;
    }
    Ok(items)
}

fn list_like(model: &Value, items: Vec<Value>) -> Value {
    if model.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) }
}

fn add(left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (text_of(left), text_of(right)) {
        check_text(a.len() + b.len())?;
        // markup escapes what is added to it
        return Ok(match (left.is_safe(), right.is_safe()) {
            (false, false) => Value::from([a, b].concat()),
            (true, true) => Value::from_safe_string([a, b].concat()),
            (true, false) => Value::from_safe_string(a.to_owned() + &escape(b)),
            (false, true) => Value::from_safe_string(escape(a) + b),
        });
    }
    if is_list(left) && is_list(right) && left.is_tuple() == right.is_tuple() {
        let mut all = items(left)?;
        all.extend(items(right)?);
        check_items(all.len())?;
        return Ok(list_like(left, all));
    }
    match numbers(left, right) {
        Some(Numbers::Integers(a, b)) => whole(a.checked_add(b)),
        Some(Numbers::Floats(a, b)) => Ok(Value::from(a + b)),
        None if left.is_undefined() || right.is_undefined() => Err(undefined()),
        None => Err(no_operator("+", left, right)),
    }
}

/// `text` as `markupsafe` escapes it.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn concat(operands: &[Value]) -> Result<Value, Error> {
    let mut out = String::new();
    for operand in operands {
        match text_of(operand) {
            Some(text) => out.push_str(text),
            None => out.push_str(&python_str(operand)),
        }
        check_text(out.len())?;
    }
    Ok(Value::from(out))
}

fn multiply(left: &Value, right: &Value) -> Result<Value, Error> {
    for (repeated, times) in [(left, right), (right, left)] {
        let Some(times) = integer(times) else { continue };
        let times = usize::try_from(times).unwrap_or(0);
        if let Some(text) = text_of(repeated) {
            check_text(text.len().saturating_mul(times))?;
            return Ok(Value::from(text.repeat(times)));
        }
        if is_list(repeated) {
            let once = items(repeated)?;
            check_items(once.len().saturating_mul(times))?;
            let all = std::iter::repeat_n(once, times).flatten().collect();
            return Ok(list_like(repeated, all));
        }
    }
    match numbers(left, right) {
        Some(Numbers::Integers(a, b)) => whole(a.checked_mul(b)),
        Some(Numbers::Floats(a, b)) => Ok(Value::from(a * b)),
        None if left.is_undefined() || right.is_undefined() => Err(undefined()),
        None => Err(no_operator("*", left, right)),
    }
}

fn modulo(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(template) = text_of(left) {
        let arguments = if right.is_tuple() { items(right)? } else { vec![right.clone()] };
        return percent(template, &arguments).map(Value::from);
    }
    match numbers(left, right) {
        Some(Numbers::Integers(_, 0)) => Err(invalid("modulo by zero")),
        Some(Numbers::Integers(a, b)) => {
            let rest = a.checked_rem(b).unwrap_or(0);
            whole(if rest != 0 && (rest < 0) != (b < 0) { rest.checked_add(b) } else { Some(rest) })
        }
        Some(Numbers::Floats(_, 0.0)) => Err(invalid("modulo by zero")),
        Some(Numbers::Floats(a, b)) => {
            let rest = a % b;
            Ok(Value::from(match rest {
                0.0 => 0.0_f64.copysign(b),
                rest if (rest < 0.0) != (b < 0.0) => rest + b,
                rest => rest,
            }))
        }
        None if left.is_undefined() || right.is_undefined() => Err(undefined()),
        None => Err(no_operator("%", left, right)),
    }
}

/// `item in all`.
pub(super) fn contains(all: &Value, item: &Value) -> Result<bool, Error> {
    Ok(match all.kind() {
        ValueKind::Undefined => false,
        ValueKind::String => match text_of(item) {
            Some(part) => all.as_str().unwrap_or_default().contains(part),
            None => return Err(no_operator("in", item, all)),
        },
        ValueKind::Map => all.as_object().is_some_and(|object| object.get_value(item).is_some()),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut found = false;
            for other in all.try_iter()?.checked() {
                found = other? == *item;
                if found {
                    break;
                }
            }
            found
        }
        _ => return Err(no_operator("in", item, all)),
    })
}

fn compare(operands: &[Value], operator: &str, holds: fn(Ordering) -> bool) -> Result<Value, Error> {
    let [left, right] = operands else { return Err(undefined()) };
    if left.is_undefined() || right.is_undefined() {
        return Err(undefined());
    }
    let comparable = numbers(left, right).is_some()
        || (left.kind() == ValueKind::String && right.kind() == ValueKind::String)
        || (is_list(left) && is_list(right));
    if !comparable {
        return Err(no_operator(operator, left, right));
    }
    Ok(Value::from(left.partial_cmp(right).is_some_and(holds)))
}

/// `value[start:stop:step]`.
fn slice(operands: &[Value]) -> Result<Value, Error> {
    let [value, start, stop, step] = operands else { return Err(undefined()) };
    let bound = |bound: &Value| match bound.is_none() {
        true => Ok(None),
        false => {
            integer(bound).map(Some).ok_or_else(|| invalid(format!("slice: expected integers, found {}", short(bound))))
        }
    };
    let bounds = (bound(start)?, bound(stop)?, bound(step)?);
    match value.kind() {
        ValueKind::String => {
            let chars: Vec<char> = value.as_str().unwrap_or_default().chars().collect();
            Ok(Value::from(slice_indices(chars.len(), bounds)?.map(|index| chars[index]).collect::<String>()))
        }
        ValueKind::Bytes => {
            let bytes = value.as_bytes().unwrap_or_default();
            Ok(Value::from_bytes(slice_indices(bytes.len(), bounds)?.map(|index| bytes[index]).collect()))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let all = items(value)?;
            let part = slice_indices(all.len(), bounds)?.map(|index| all[index].clone()).collect();
            Ok(list_like(value, part))
        }
        ValueKind::Undefined => Err(undefined()),
        _ => Err(invalid(format!("no slice of {}", short(value)))),
    }
}

type Bounds = (Option<i64>, Option<i64>, Option<i64>);

/// The indices of a slice of `length` items, as `slice.indices` of Python has them.
fn slice_indices(length: usize, (start, stop, step): Bounds) -> Result<impl Iterator<Item = usize>, Error> {
    let length = i128::try_from(length).unwrap_or(i128::MAX);
    let step = i128::from(step.unwrap_or(1));
    if step == 0 {
        return Err(invalid("slice: the step is zero"));
    }
    // where indices stop at either end
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: Option<i64>, default: i128| match bound.map(i128::from) {
        None => default,
        Some(bound) if bound < 0 => (bound + length).max(lowest),
        Some(bound) => bound.min(highest),
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (clamp(start, first), clamp(stop, last));
    let mut at = start;
    Ok(std::iter::from_fn(move || {
        let inside = if step > 0 { at < stop } else { at > stop };
        let index = usize::try_from(at).ok().filter(|_| inside)?;
        at += step;
        Some(index)
    }))
}

/// What a `for` goes through.
fn iterable(operands: &[Value]) -> Result<Value, Error> {
    let [value] = operands else { return Err(undefined()) };
    match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Seq | ValueKind::Map => Ok(value.clone()),
        // a list knows its length, which `loop.last` wants
        ValueKind::Iterable => items(value).map(Value::from),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().map(Value::from).collect()),
        ValueKind::Bytes => Ok(value.as_bytes().unwrap_or_default().iter().copied().map(Value::from).collect()),
        _ => Err(invalid(format!("{} is not iterable", short(value)))),
    }
}

/// `value.name`, where a type of Python has a method of that name: the method comes before an item of a dictionary.
fn attribute(operands: &[Value]) -> Result<Value, Error> {
    let [value, name] = operands else { return Err(undefined()) };
    let name = name.as_str().unwrap_or_default();
    match BoundMethod::of(value, name) {
        Some(method) => Ok(Value::from_object(method)),
        None if value.is_none() => Ok(Value::UNDEFINED),
        None => value.get_attr(name),
    }
}

/// `value["name"]`, where a type of Python has a method of that name: the method stands in for an item that is missing.
fn item(operands: &[Value]) -> Result<Value, Error> {
    let [value, name] = operands else { return Err(undefined()) };
    match value.as_object().filter(|_| value.kind() == ValueKind::Map).and_then(|object| object.get_value(name)) {
        Some(item) => Ok(item),
        None => attribute(operands),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use proptest::prelude::*;

    /// As the documentation of Python defines slices: item by item.
    fn by_definition(length: i64, start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<i64> {
        let place = |bound: i64| if bound < 0 { bound + length } else { bound };
        let (mut out, mut at) = (Vec::new(), start.map(place));
        let at = at.get_or_insert(if step > 0 { 0 } else { length - 1 });
        *at = if step > 0 { (*at).max(0) } else { (*at).min(length - 1) };
        let stop = stop.map(place);
        loop {
            let passed = stop.is_some_and(|stop| if step > 0 { *at >= stop } else { *at <= stop });
            if passed || *at < 0 || *at >= length {
                return out;
            }
            out.push(*at);
            *at += step;
        }
    }

    proptest! {
        #[test]
        fn slices_are_those_of_python(
            length in 0_usize..7,
            start in prop::option::of(-9_i64..9),
            stop in prop::option::of(-9_i64..9),
            step in -4_i64..5,
        ) {
            prop_assume!(step != 0);
            let found: Vec<i64> =
                slice_indices(length, (start, stop, Some(step))).unwrap().map(|index| index as i64).collect();
            prop_assert_eq!(found, by_definition(length as i64, start, stop, step));
        }
    }
}
