//! How the next token is chosen: options as users and `generation_config.json` give them, and what they come to.

use serde::{Deserialize, Serialize};

use super::TextError;

/// Sampling options, each of which may be left open; the names are those of `generation_config.json`.
///
/// Sources are merged with [`SamplerOptions::or`], the strongest first: command line, then `generation_config.json`,
/// then the built-in defaults of [`SamplerOptions::settings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerOptions {
    /// False asks for greedy decoding, whatever the temperature of the same source.
    pub do_sample: Option<bool>,
    /// Divides the logits before the draw; 0 is greedy.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keep the most likely tokens that together reach this probability; 1 keeps all.
    pub top_p: Option<f32>,
    /// Keep tokens at least this many times as likely as the most likely one; 0 keeps all.
    pub min_p: Option<f32>,
    /// Taken from the logit of each token that has occurred.
    pub presence_penalty: Option<f32>,
    /// Taken from the logit of each token for each time it has occurred.
    pub frequency_penalty: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens that have occurred; 1 is none.
    #[serde(alias = "repeat_penalty")]
    pub repetition_penalty: Option<f32>,
}

impl SamplerOptions {
    /// These options, and `fallback`'s where they are open.
    ///
    /// A temperature given here also overrides a `do_sample: false` of the weaker source: whoever asks for a
    /// temperature wants it used.
    pub(crate) fn or(self, fallback: Self) -> Self {
        let do_sample = match (self.do_sample, self.temperature) {
            (None, Some(_)) => Some(true),
            (None, None) => fallback.do_sample,
            (given, _) => given,
        };
        Self {
            do_sample,
            temperature: self.temperature.or(fallback.temperature),
            top_k: self.top_k.or(fallback.top_k),
            top_p: self.top_p.or(fallback.top_p),
            min_p: self.min_p.or(fallback.min_p),
            presence_penalty: self.presence_penalty.or(fallback.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(fallback.frequency_penalty),
            repetition_penalty: self.repetition_penalty.or(fallback.repetition_penalty),
        }
    }

    /// Fills what is still open with the built-in defaults, and checks the ranges.
    ///
    /// Greedy where `do_sample` is false, or where neither `do_sample` nor a temperature is given; no filter and no
    /// penalty unless asked for.
    pub fn settings(&self) -> Result<SamplerSettings, TextError> {
        let temperature = match (self.do_sample, self.temperature) {
            (Some(false), _) | (None, None) => 0.0,
            (_, Some(temperature)) => temperature,
            (Some(true), None) => 1.0,
        };
        let settings = SamplerSettings {
            temperature,
            top_k: self.top_k.unwrap_or(0) as usize,
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
        };
        settings.check()?;
        Ok(settings)
    }
}

/// Sampling options with nothing left open, within their ranges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerSettings {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 keeps all tokens.
    pub top_k: usize,
    /// 1 keeps all tokens.
    pub top_p: f32,
    /// 0 keeps all tokens.
    pub min_p: f32,
    /// 0 is none.
    pub presence_penalty: f32,
    /// 0 is none.
    pub frequency_penalty: f32,
    /// 1 is none.
    pub repetition_penalty: f32,
}

impl SamplerSettings {
    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether tokens that have occurred are penalised.
    pub(crate) fn has_penalties(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }

    /// Whether penalties make no token more likely.
    pub(crate) fn only_lowers(&self) -> bool {
        self.presence_penalty >= 0.0 && self.frequency_penalty >= 0.0 && self.repetition_penalty >= 1.0
    }

    /// How many of the most likely tokens are enough to choose the next one; None where all logits are needed.
    pub fn candidates_needed(&self) -> Option<usize> {
        if self.has_penalties() {
            None
        } else if self.is_greedy() {
            Some(1)
        } else {
            (self.top_k > 0).then_some(self.top_k)
        }
    }

    fn check(&self) -> Result<(), TextError> {
        // beyond, logits overflow, and no token can be chosen
        let is_penalty = |penalty: f32| (-1e6..=1e6).contains(&penalty);
        let checks: [(&'static str, f32, bool, &'static str); 6] = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 (greedy) or more"),
            ("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), "0 to 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            ("presence_penalty", self.presence_penalty, is_penalty(self.presence_penalty), "-1000000 to 1000000"),
            ("frequency_penalty", self.frequency_penalty, is_penalty(self.frequency_penalty), "-1000000 to 1000000"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                (1e-6..=1e6).contains(&self.repetition_penalty),
                "0.000001 to 1000000 (1 is none)",
            ),
        ];
        for (option, value, in_range, expected) in checks {
            if !in_range || !value.is_finite() {
                return Err(TextError::SamplerOption { option, expected, found: f64::from(value) });
            }
        }
        Ok(())
    }
}
