//! JSON schemas of tools and answers: what a value that a model wrote as text is under them ([`value_from_text`]), and what
//! of them a grammar can hold an answer to ([`plain()`], [`argument_forms()`]).
//!
//! Schemas come from clients. Nothing here trusts them: references may go in circles, keywords may have any value, and
//! what would take too long has a limit.

mod argument_forms;
mod fits;
mod joined;
mod kinds;
mod leaves;
mod literals;
mod patterns;
mod plain;
mod references;
mod value;

pub(crate) use argument_forms::{ArgumentForm, argument_forms};
pub(crate) use leaves::leaves;
pub(crate) use patterns::syntax;
pub(crate) use plain::{SchemaError, Strictness, plain};
pub(crate) use value::value_from_text;
