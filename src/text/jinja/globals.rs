//! The functions that a template of transformers finds: jinja2's, `raise_exception` and `strftime_now`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest};
use minijinja::{Environment, Error, State, Value};

use super::arguments::{Arguments, Given, invalid};
use super::methods::pairs;
use super::python_text::python_str;
use super::strftime::{Clock, strftime_now};

/// Makes the functions known; `clock` says what time it is.
pub(super) fn add_to(environment: &mut Environment<'_>, clock: Clock) {
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        Err(invalid(python_str(message)))
    });
    environment.add_function("strftime_now", move |format: &str| strftime_now(format, clock));
    environment.add_function("joiner", |given: Given| -> Result<Value, Error> {
        let mut arguments = Arguments::new("joiner", &given.into_values());
        let separator = arguments.text("sep")?.unwrap_or_else(|| ", ".into());
        arguments.end()?;
        Ok(Value::from_object(Joiner { separator, used: AtomicBool::new(false) }))
    });
    environment.add_function("cycler", |given: Rest<Value>| -> Result<Value, Error> {
        if given.is_empty() {
            return Err(invalid("cycler: expected at least one item"));
        }
        Ok(Value::from_object(Cycler { items: given.to_vec(), position: AtomicUsize::new(0) }))
    });
    environment.add_function("dict", |given: Given| -> Result<Value, Error> {
        let mut arguments = Arguments::new("dict", &given.into_values());
        let mut all = match arguments.optional("") {
            Some(value) if value.kind() == minijinja::value::ValueKind::Map => pairs(&value)?,
            Some(value) => super::operators::items(&value)?
                .iter()
                .map(|pair| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?)))
                .collect::<Result<_, Error>>()?,
            None => Vec::new(),
        };
        all.extend(arguments.all_named().into_iter().map(|(name, value)| (Value::from(name), value)));
        arguments.end()?;
        Ok(Value::from_pairs(all))
    });
}

/// Whether a value can be called.
pub(super) fn is_callable(value: &Value) -> bool {
    value.as_object().is_some_and(|object| {
        let name = object.type_name();
        ["Macro", "BoxedFunction", "BoundMethod", "Joiner", "Cycler", "Closure"].iter().any(|kind| name.contains(kind))
    })
}

/// `joiner`: nothing at the first call, the separator from then on.
#[derive(Debug)]
struct Joiner {
    separator: String,
    used: AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _state: &mut State<'_, '_>, given: &[Value]) -> Result<Value, Error> {
        Arguments::new("joiner", given).end()?;
        Ok(Value::from(if self.used.swap(true, Ordering::Relaxed) { self.separator.as_str() } else { "" }))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Joiner>")
    }
}

/// `cycler`: its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    position: AtomicUsize,
}

impl Cycler {
    fn current(&self) -> Value {
        self.items[self.position.load(Ordering::Relaxed) % self.items.len()].clone()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn call_method(self: &Arc<Self>, _state: &mut State<'_, '_>, name: &str, given: &[Value]) -> Result<Value, Error> {
        let result = match name {
            "next" => {
                let current = self.current();
                self.position.fetch_add(1, Ordering::Relaxed);
                current
            }
            "reset" => {
                self.position.store(0, Ordering::Relaxed);
                Value::from(())
            }
            _ => return Err(Error::from(minijinja::ErrorKind::UnknownMethod)),
        };
        Arguments::new(name, given).end()?;
        Ok(result)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Cycler>")
    }
}
