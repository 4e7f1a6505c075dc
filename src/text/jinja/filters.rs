//! The filters of jinja2 for lists, dictionaries and numbers, where the engine lacks them or does otherwise.

use std::hash::{BuildHasher, RandomState};

use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::arguments::{Arguments, Given, integer, invalid, short, undefined};
use super::generators::generator;
use super::limits::check_text;
use super::methods::{BoundMethod, pairs};
use super::operators::items;
use super::python_text::{is_dict, python_repr, python_str};

/// Makes the filters known.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("first", |value: &Value| ends(value, false));
    environment.add_filter("last", |value: &Value| ends(value, true));
    environment.add_filter("list", |value: &Value| list(value).map(Value::from));
    environment.add_filter("join", join);
    environment.add_filter("reverse", |value: &Value| match value.as_str() {
        Some(text) => Ok(Value::from(text.chars().rev().collect::<String>())),
        None => list(value).map(|mut all| {
            all.reverse();
            generator(all)
        }),
    });
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("sort", |state: &State<'_, '_>, value: Value, given: Given| {
        let named = by_name("sort", &["reverse", "case_sensitive", "attribute"], &given.into_values())?;
        minijinja::filters::sort(state, value, named)
    });
    environment.add_filter("attr", |value: &Value, name: &str| match BoundMethod::of(value, name) {
        Some(method) => Value::from_object(method),
        // items of a dictionary are no attributes
        None if is_dict(value) => Value::UNDEFINED,
        None => value.get_attr(name).unwrap_or_default(),
    });
    environment.add_filter("random", |value: &Value| -> Result<Value, Error> {
        let all = list(value)?;
        // the hasher is the one source of chance in the standard library
        let chance = RandomState::new().hash_one(0);
        let index = chance.checked_rem(all.len() as u64).unwrap_or(0);
        Ok(all.get(usize::try_from(index).unwrap_or(0)).cloned().unwrap_or_default())
    });
    environment.add_filter("string", |value: &Value| match value.kind() {
        ValueKind::String => value.clone(),
        _ => Value::from(python_str(value)),
    });
    environment.add_filter("pprint", |value: &Value| python_repr(value));
    environment.add_filter("abs", |value: &Value| -> Result<Value, Error> {
        match value.kind() {
            ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
            _ => minijinja::filters::abs(value.clone()),
        }
    });
    environment.add_filter("int", int);
    environment.add_filter("float", float);
}

pub(super) fn tuple((key, value): (Value, Value)) -> Value {
    Value::from(Tuple::from([key, value]))
}

/// Arguments that the engine's filter knows by name only.
pub(super) fn by_name(of: &str, names: &[&str], given: &[Value]) -> Result<Kwargs, Error> {
    let mut arguments = Arguments::new(of, given);
    let mut named = Vec::new();
    for name in names {
        if let Some(value) = arguments.optional(name).filter(|value| !value.is_none()) {
            named.push((*name, value));
        }
    }
    arguments.end()?;
    Ok(named.into_iter().collect())
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        ValueKind::Bytes => Ok(value.as_bytes().map_or(0, <[u8]>::len)),
        ValueKind::Iterable => Ok(items(value)?.len()),
        _ => value.len().ok_or_else(|| invalid(format!("length: {} has none", short(value)))),
    }
}

fn default(value: &Value, given: Given) -> Result<Value, Error> {
    let mut arguments = Arguments::new("default", &given.into_values());
    let instead = arguments.optional("default_value").unwrap_or_else(|| Value::from(""));
    let also_if_false = arguments.flag("boolean", false);
    arguments.end()?;
    Ok(if value.is_undefined() || (also_if_false && !value.is_true()) { instead } else { value.clone() })
}

/// The items of what can be iterated: characters of a string, keys of a dictionary.
pub(super) fn list(value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().map(Value::from).collect()),
        ValueKind::Bytes => Ok(value.as_bytes().unwrap_or_default().iter().copied().map(Value::from).collect()),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => items(value),
        _ => Err(invalid(format!("{} is not iterable", short(value)))),
    }
}

fn ends(value: &Value, last: bool) -> Result<Value, Error> {
    let all = list(value)?;
    Ok(if last { all.last() } else { all.first() }.cloned().unwrap_or_default())
}

fn join(value: &Value, given: Given) -> Result<Value, Error> {
    let mut arguments = Arguments::new("join", &given.into_values());
    let separator = arguments.optional("d").map_or_else(String::new, |separator| python_str(&separator));
    let attribute = arguments.optional("attribute").filter(|attribute| !attribute.is_none());
    arguments.end()?;
    let mut out = String::new();
    for (index, item) in list(value)?.into_iter().enumerate() {
        if index > 0 {
            out.push_str(&separator);
        }
        let item = match &attribute {
            Some(path) => at_path(&item, path)?,
            None => item,
        };
        match item.as_str() {
            Some(text) => out.push_str(text),
            None => out.push_str(&python_str(&item)),
        }
        check_text(out.len())?;
    }
    Ok(Value::from(out))
}

/// `item.a.0.b` for the path "a.0.b".
fn at_path(item: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return item.get_item(path) };
    path.split('.').try_fold(item.clone(), |value, part| match part.parse::<usize>() {
        Ok(index) => value.get_item_by_index(index),
        Err(_) => value.get_attr(part),
    })
}

fn dictsort(value: &Value, given: Given) -> Result<Value, Error> {
    let mut arguments = Arguments::new("dictsort", &given.into_values());
    let case_sensitive = arguments.flag("case_sensitive", false);
    let by = arguments.text("by")?;
    let reverse = arguments.flag("reverse", false);
    arguments.end()?;
    if value.is_undefined() {
        return Err(undefined());
    }
    if !is_dict(value) {
        return Err(invalid(format!("dictsort: expected a dictionary, found {}", short(value))));
    }
    let by_value = match by.as_deref() {
        None | Some("key") => false,
        Some("value") => true,
        Some(other) => return Err(invalid(format!("dictsort: `by`: expected key or value, found {other}"))),
    };
    let mut all = pairs(value)?;
    let sort_key = |(key, value): &(Value, Value)| {
        let key = if by_value { value } else { key };
        match key.as_str() {
            Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
            _ => key.clone(),
        }
    };
    all.sort_by(|a, b| {
        let order = sort_key(a).cmp(&sort_key(b));
        if reverse { order.reverse() } else { order }
    });
    Ok(all.into_iter().map(tuple).collect())
}

fn int(value: &Value, given: Given) -> Result<Value, Error> {
    let mut arguments = Arguments::new("int", &given.into_values());
    let default = arguments.optional("default").unwrap_or_else(|| Value::from(0));
    let base = arguments.integer("base")?.unwrap_or(10);
    arguments.end()?;
    Ok(match value.kind() {
        ValueKind::Number | ValueKind::Bool => match integer(value) {
            Some(whole) => Value::from(whole),
            None if value.is_integer() => value.clone(),
            None => f64::try_from(value.clone()).map_or(default, |number| whole_of(number, &Value::from(0))),
        },
        ValueKind::String => {
            let text: String = value.as_str().unwrap_or_default().trim().chars().filter(|c| *c != '_').collect();
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let base = u32::try_from(base).unwrap_or(10).clamp(2, 36);
            let prefixes: &[&str] = match base {
                2 => &["0b", "0B"],
                8 => &["0o", "0O"],
                16 => &["0x", "0X"],
                _ => &[],
            };
            let digits = prefixes.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
            match i128::from_str_radix(digits, base) {
                Ok(whole) if digits.starts_with(|c: char| c.is_ascii_alphanumeric()) => {
                    let whole = if sign == "-" { -whole } else { whole };
                    i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from)
                }
                _ => text.parse().map_or(default.clone(), |number: f64| whole_of(number, &default)),
            }
        }
        _ => default,
    })
}

/// The whole part of a float.
fn whole_of(number: f64, default: &Value) -> Value {
    match number.trunc() {
        whole if whole.abs() < 9.2e18 => Value::from(whole as i64),
        whole if whole.abs() < 1.7e38 => Value::from(whole as i128),
        _ => default.clone(),
    }
}

fn float(value: &Value, given: Given) -> Result<Value, Error> {
    let mut arguments = Arguments::new("float", &given.into_values());
    let default = arguments.optional("default").unwrap_or_else(|| Value::from(0.0));
    arguments.end()?;
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).map_or(default, Value::from),
        ValueKind::String => value.as_str().unwrap_or_default().trim().parse::<f64>().map_or(default, Value::from),
        _ => default,
    })
}
