//! Options of an engine from JSON, for callers that are not Rust.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Activations, Device, Engine, EngineError, EngineOptions, ExpertBudget, KvFormat, MemoryPlan, OpenedDevice,
};
use crate::experts::Reads;
use crate::model::ModelSource;

/// What an engine is opened with.
#[derive(Clone, Debug, Default)]
pub struct OpenRequest {
    /// A snapshot folder, a GGUF file or a pack; `None` is the small model inside the library.
    pub model: Option<PathBuf>,
    /// How it is opened.
    pub options: EngineOptions,
}

/// The keys: flags of the command line, `context` for `--ctx`, `autotune` and `verify` for the opposites of `--no-autotune`
/// and `--no-verify`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    model: Option<PathBuf>,
    device: Option<String>,
    activations: Option<String>,
    context: Option<usize>,
    kv: Option<String>,
    rope_scaling: Option<String>,
    expert_cache: Option<String>,
    reads: Option<String>,
    chunk: Option<usize>,
    look_ahead: usize,
    autotune: Option<bool>,
    stripe: Vec<PathBuf>,
    power: Option<u32>,
    verify: Option<bool>,
}

impl OpenRequest {
    /// From an object such as `{"model": "/path", "device": "gpu", "expert_cache": "8GB"}`; `null` is the default of all.
    /// Keys: `model`, `device`, `activations`, `context`, `kv`, `rope_scaling`, `expert_cache`, `reads`, `chunk`,
    /// `look_ahead`, `autotune`, `stripe`, `power`, `verify`, with the values that the flags of `flashflood run` take.
    ///
    /// # Errors
    /// A key that is not known, or a value that it does not take.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        if value.is_null() {
            return Ok(OpenRequest::default());
        }
        let keys = Keys::deserialize(value).map_err(|e| e.to_string())?;
        if keys.chunk == Some(0) {
            return Err("chunk: expected 1 or more tokens, found 0".to_owned());
        }
        if keys.model.is_none() && !keys.stripe.is_empty() {
            return Err("stripe: is for a pack on disk, and no model is given".to_owned());
        }
        let built_in = EngineOptions::default();
        let options = EngineOptions {
            device: one_of("device", keys.device, built_in.device)?,
            activations: one_of("activations", keys.activations, built_in.activations)?,
            context: keys.context,
            kv: one_of("kv", keys.kv, built_in.kv)?,
            rope_scaling: match keys.rope_scaling {
                Some(text) => text.parse().map_err(|e| format!("rope_scaling: {e}"))?,
                None => built_in.rope_scaling,
            },
            experts: match keys.expert_cache {
                Some(text) => text.parse().map_err(|e| format!("expert_cache: {e}"))?,
                None => ExpertBudget::Auto,
            },
            reads: one_of("reads", keys.reads, built_in.reads)?,
            chunk: keys.chunk,
            look_ahead: keys.look_ahead,
            autotune: keys.autotune.unwrap_or(true),
            stripe: keys.stripe,
            power: match keys.power {
                Some(power @ 1..=100) => power,
                Some(other) => return Err(format!("power: expected 1 to 100 percent, found {other}")),
                None => built_in.power,
            },
            verify: keys.verify.unwrap_or(built_in.verify),
        };
        Ok(OpenRequest { model: keys.model, options })
    }
}

impl OpenRequest {
    /// Opens the model.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open(&self) -> Result<Engine, EngineError> {
        Engine::from_source(self.source()?, &self.options)
    }

    /// Where memory would go; nothing large is loaded.
    ///
    /// # Errors
    /// What opening says, as far as the plan.
    pub fn memory_plan(&self) -> Result<MemoryPlan, EngineError> {
        Engine::plan_for(&self.source()?, &OpenedDevice::open(self.options.device)?, &self.options)
    }

    fn source(&self) -> Result<ModelSource, EngineError> {
        Ok(match &self.model {
            Some(path) => ModelSource::open_striped(path, &self.options.stripe)?,
            None => ModelSource::embedded()?,
        })
    }
}

/// An option that is one of a few words, which are the same in JSON and on the command line.
trait Choice: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl Choice for Device {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Device::Auto), ("gpu", Device::Gpu), ("cpu", Device::Cpu)];
}

impl Choice for Activations {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Activations::Auto), ("f32", Activations::F32), ("int8", Activations::Int8)];
}

impl Choice for KvFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("f32", KvFormat::F32),
        ("f16", KvFormat::F16),
        ("q8", KvFormat::Q8),
        ("tq4", KvFormat::Tq4),
        ("k8v4", KvFormat::K8v4),
    ];
}

impl Choice for Reads {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Reads::Auto), ("cached", Reads::Cached), ("direct", Reads::Direct), ("threads", Reads::Threads)];
}

fn one_of<T: Choice>(key: &str, given: Option<String>, built_in: T) -> Result<T, String> {
    let Some(given) = given else { return Ok(built_in) };
    T::WORDS.iter().find(|(word, _)| *word == given).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        format!("{key}: expected one of {}, found '{given}'", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use serde_json::json;

    /// Flags and JSON take the same words for the same values.
    #[cfg(feature = "cli")]
    #[test]
    fn words_are_those_of_the_command_line() {
        fn same<T: Choice + clap::ValueEnum + std::fmt::Debug + PartialEq>() {
            let flags: Vec<(String, T)> = T::value_variants()
                .iter()
                .map(|v| (v.to_possible_value().unwrap().get_name().to_owned(), *v))
                .collect();
            let words: Vec<(String, T)> = T::WORDS.iter().map(|(word, value)| ((*word).to_owned(), *value)).collect();
            assert_eq!(words, flags);
        }
        same::<Device>();
        same::<Activations>();
        same::<Reads>();
        same::<KvFormat>();
    }

    #[test]
    fn keys_are_read() {
        let keys = json!({"model": "/m", "device": "cpu", "expert_cache": "8GB", "rope_scaling": "yarn:4"});
        let open = OpenRequest::from_json(&keys).unwrap();
        assert_eq!(open.options.rope_scaling, "yarn:4".parse().unwrap());
        assert_eq!((open.model, open.options.device), (Some("/m".into()), Device::Cpu));
        assert_eq!(open.options.experts, ExpertBudget::Bytes(8_000_000_000));
        assert!(OpenRequest::from_json(&Value::Null).unwrap().model.is_none());
        for (wrong, why) in [
            (json!({"devise": "cpu"}), "unknown field `devise`"),
            (json!({"device": "tpu"}), "device: expected one of auto, gpu, cpu, found 'tpu'"),
            (json!({"expert_cache": "much"}), "expert_cache: expected auto, all or a size"),
            (json!({"rope_scaling": "linear"}), "rope_scaling: expected auto, none, yarn:FACTOR"),
            (json!({"chunk": 0}), "chunk: expected 1 or more"),
            (json!({"stripe": ["/x"]}), "stripe: is for a pack"),
            (json!({"power": 0}), "power: expected 1 to 100"),
            (json!(3), "invalid type"),
        ] {
            let error = OpenRequest::from_json(&wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
