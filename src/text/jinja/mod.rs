//! Jinja as transformers sets it up: jinja2 over Python's values.
//!
//! minijinja is the engine. Its hooks replace filters, tests, functions, methods and the printing of values; for
//! operators, which have no hook, and for `{% generation %}` the template is [written anew](rewrite) before it is
//! compiled.

mod arguments;
mod filters;
mod format;
mod generation;
mod generators;
mod globals;
mod json;
mod limits;
mod methods;
mod operators;
mod predicates;
mod python_text;
mod rewrite;
mod strftime;
mod string_literal;
mod string_methods;
mod text_filters;
mod wrap;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::aside::message_of;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

pub(super) use limits::STACK;
#[cfg(feature = "server")]
pub(crate) use strftime::strftime;
pub(super) use strftime::{Clock, now};

const NAME: &str = "chat_template";

/// A compiled template.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
}

/// Whether the engine can take `source`, or the line and what of it is too much.
pub(super) fn check_source(source: &str) -> Result<(), (usize, String)> {
    SyntaxConfig::builder().build().map_or(Ok(()), |syntax| limits::check_source(source, syntax))
}

impl Template {
    /// Compiles `source`; `clock` is what `strftime_now` tells.
    pub(super) fn new(source: &str, clock: Clock) -> Result<Self, Error> {
        guarded(|| {
            let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
            let rewritten = rewrite::rewrite(&generation::without_generation(source), NAME, syntax)?;
            let mut environment = Environment::new();
            environment.set_auto_escape_callback(|_| AutoEscape::None);
            environment.set_undefined_behavior(UndefinedBehavior::Lenient);
            // in every build, so that errors name the undefined variable
            environment.set_debug(true);
            environment.set_fuel(Some(limits::STEPS));
            environment.set_unknown_method_callback(methods::call_method);
            environment.set_formatter(|out, state, value| {
                let mut text: Cow<'_, str> = match python_text::text_of(value) {
                    Some(text) => text.into(),
                    None => python_text::python_str(value).into(),
                };
                if !matches!(state.auto_escape(), AutoEscape::None) && !value.is_safe() {
                    text = operators::escape(&text).into();
                }
                limits::count_written(state, text.len())?;
                out.write_str(&text).map_err(Error::from)
            });
            operators::add_to(&mut environment);
            predicates::add_to(&mut environment);
            globals::add_to(&mut environment, clock);
            filters::add_to(&mut environment);
            generators::add_to(&mut environment);
            text_filters::add_to(&mut environment);
            environment.add_template_owned(NAME, rewritten)?;
            Ok(Template { environment })
        })
    }

    /// Renders it with `variables`. A panic of the engine is an error, as any other.
    pub(super) fn render(&self, variables: Value) -> Result<String, Error> {
        guarded(|| self.environment.get_template(NAME)?.render(variables))
    }
}

/// A checkpoint's template is a stranger's program: where it finds a hole in the engine, one request fails.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = format!("the template engine failed: {}", message_of(&*panic));
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    })
}
