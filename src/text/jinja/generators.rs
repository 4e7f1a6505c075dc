//! The filters that give a generator in jinja2: it is true even where nothing comes out of it.

use std::borrow::Cow;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Environment, Error, State, Value, filters};

use super::arguments::{Arguments, Given, invalid, short};
use super::filters::{by_name, list, tuple};
use super::limits::check_items;
use super::methods::pairs;
use super::operators::items;
use super::python_text::is_dict;

/// What a generator gives.
#[derive(Debug)]
struct Generator(Vec<Value>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.clone())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

pub(super) fn generator(items: Vec<Value>) -> Value {
    Value::from_object(Generator(items))
}

/// Makes the filters known. Most are the engine's.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("map", |state: &mut State<'_, '_>, value: &Value, given: Given| {
        filters::map(state, what_is_there(value)?, given).map(generator)
    });
    type Test<'a> = Option<Cow<'a, str>>;
    environment.add_filter("select", |state: &mut State<'_, '_>, value: &Value, test: Test<'_>, given: Given| {
        filters::select(state, what_is_there(value)?, test, given).map(generator)
    });
    environment.add_filter("reject", |state: &mut State<'_, '_>, value: &Value, test: Test<'_>, given: Given| {
        filters::reject(state, what_is_there(value)?, test, given).map(generator)
    });
    environment.add_filter(
        "selectattr",
        |state: &mut State<'_, '_>, value: &Value, attribute: Cow<'_, str>, test: Test<'_>, given: Given| {
            filters::selectattr(state, what_is_there(value)?, attribute, test, given).map(generator)
        },
    );
    environment.add_filter(
        "rejectattr",
        |state: &mut State<'_, '_>, value: &Value, attribute: Cow<'_, str>, test: Test<'_>, given: Given| {
            filters::rejectattr(state, what_is_there(value)?, attribute, test, given).map(generator)
        },
    );
    environment.add_filter("unique", |state: &State<'_, '_>, value: &Value, given: Given| {
        let named = by_name("unique", &["case_sensitive", "attribute"], &given.into_values())?;
        items(&filters::unique(state, list(value)?.into(), named)?).map(generator)
    });
    environment.add_filter("items", |value: &Value| match value.kind() {
        ValueKind::Undefined => Ok(generator(Vec::new())),
        _ if is_dict(value) => Ok(generator(pairs(value)?.into_iter().map(tuple).collect())),
        _ => Err(invalid(format!("items: expected a dictionary, found {}", short(value)))),
    });
    environment.add_filter("batch", |state: &State<'_, '_>, value: &Value, given: Given| {
        let (count, fill) = groups("batch", "linecount", &given.into_values())?;
        items(&filters::batch(state, list(value)?.into(), count, fill)?).map(generator)
    });
    environment.add_filter("slice", |state: &State<'_, '_>, value: &Value, given: Given| {
        let (count, fill) = groups("slice", "slices", &given.into_values())?;
        items(&filters::slice(state, list(value)?.into(), count, fill)?).map(generator)
    });
}

/// The items of `value`: none of what is false, such as `none`.
fn what_is_there(value: &Value) -> Result<Value, Error> {
    if !value.is_true() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    list(value).map(Value::from)
}

/// The parameters of `batch` and `slice`.
fn groups(of: &str, count_name: &str, given: &[Value]) -> Result<(usize, Option<Value>), Error> {
    let mut arguments = Arguments::new(of, given);
    let count = arguments.integer(count_name)?.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let fill = arguments.optional("fill_with").filter(|fill| !fill.is_none());
    arguments.end()?;
    check_items(count)?;
    Ok((count, fill))
}
