//! What requests need to know of the model while the engine computes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::machine::Machine;
use crate::request::strftime;
use crate::{Engine, EngineError, Language};

/// The loaded model.
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) language: Arc<Language>,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) machine: Machine,
}

impl Model {
    pub(crate) fn of(engine: &Engine, name: String) -> Result<Self, EngineError> {
        let machine = Machine::of(engine, &name);
        Ok(Model { name, language: engine.language()?, created: now(), machine })
    }
}

/// Seconds since 1970 as RFC 3339 writes them.
pub(crate) fn time_text(seconds: u64) -> String {
    strftime("%Y-%m-%dT%H:%M:%SZ", seconds).expect("the format has known directives")
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
