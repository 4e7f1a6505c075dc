//! JSON schemas of tools and answers: what a value that a model wrote as text is under them ([`value_from_text`]), and what
//! of them a grammar can hold an answer to ([`plain`], [`argument_forms`]).
//!
//! Schemas come from clients. Nothing here trusts them: references may go in circles, keywords may have any value, and
//! what would take too long has a limit.

mod argument_forms;
mod fits;
mod kinds;
mod literals;
mod plain;
mod references;
mod value;

pub(crate) use argument_forms::{ArgumentForm, argument_forms};
pub(crate) use kinds::{JsonKind, Kinds, kinds};
pub(crate) use plain::{MOST_DEPTH, SchemaError, Strictness, check_pattern, plain};
pub(crate) use references::target;
pub(crate) use value::value_from_text;
