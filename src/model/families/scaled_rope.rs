//! Rotary positions that are scaled for longer contexts: YaRN is computed, others are refused.

use super::keys::ConfigKeys;
use crate::file_error::FileError;
use crate::model::Yarn;
use crate::weights::Keys;

/// A longer stretch is a mistake.
const MOST_FACTOR: f64 = 1024.0;

impl ConfigKeys<'_> {
    /// What `rope_parameters` or `rope_scaling` say of YaRN.
    pub(super) fn yarn(&self) -> Result<Option<Yarn>, FileError> {
        let mut found = None;
        for name in ["rope_parameters", "rope_scaling"] {
            let Some(scaling) = self.text.object(name)? else { continue };
            for key in ["rope_type", "type"] {
                match scaling.text(key)? {
                    // mrope turns images and videos by more than one position; those of text are alike
                    None | Some("default" | "mrope") => {}
                    Some("yarn") => found = Some(scaling.clone()),
                    Some(_) => {
                        let expected = "\"default\" or \"yarn\" (other scaled rotary positions are not implemented)";
                        return Err(scaling.value(key, expected));
                    }
                }
            }
        }
        found.map(|keys| self.read_yarn(&keys)).transpose()
    }

    fn read_yarn(&self, keys: &Keys<'_>) -> Result<Yarn, FileError> {
        let number = |key: &str, least: f64, most: f64| match keys.has(key) {
            false => Ok(None),
            true => match keys.number(key)? {
                found if (least..=most).contains(&found) => Ok(Some(found)),
                _ => Err(keys.value(key, &format!("a number from {least} to {most}"))),
            },
        };
        let factor = number("factor", 1.0, MOST_FACTOR)?;
        let factor = factor.ok_or_else(|| keys.missing("factor", "how many times longer the context is"))?;
        let key = "original_max_position_embeddings";
        let original = match keys.has(key) {
            true => keys.size(key)?,
            false => self.text.size("max_position_embeddings")?,
        };
        if original == 0 {
            return Err(keys.value(key, "1 or more"));
        }
        let mscales = match (number("mscale", 0.0, MOST_FACTOR)?, number("mscale_all_dim", 0.0, MOST_FACTOR)?) {
            // as the reference: 0 is as good as absent
            (Some(scale), Some(of_all)) if scale > 0.0 && of_all > 0.0 => Some([scale, of_all]),
            _ => None,
        };
        let attention_factor = number("attention_factor", 1e-3, MOST_FACTOR)?;
        let beta = |key: &str, default: f64| Ok::<f64, FileError>(number(key, 1e-3, 1e6)?.unwrap_or(default));
        let (beta_fast, beta_slow) = (beta("beta_fast", 32.0)?, beta("beta_slow", 1.0)?);
        if beta_fast < beta_slow {
            return Err(keys.value("beta_fast", &format!("{beta_slow} (beta_slow) or more")));
        }
        Ok(Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            truncate: keys.flag("truncate")?.unwrap_or(true),
            attention_factor: attention_factor.unwrap_or_else(|| Yarn::attention_factor(factor, mscales)),
        })
    }
}
