//! Rotary positions that are scaled for longer contexts: YaRN is computed, others are refused.

use super::keys::{ConfigKeys, MAX_POSITIONS};
use crate::file_error::FileError;
use crate::model::rope_scaling::MOST_FACTOR;
use crate::model::{RopeScaling, Yarn};
use crate::weights::Keys;

const POSITIONS: &str = "max_position_embeddings";
const ORIGINAL: &str = "original_max_position_embeddings";
const CHUNKS: &str = "dual_chunk_attention_config";

impl ConfigKeys<'_> {
    /// YaRN as it was asked for, or as `rope_parameters` or `rope_scaling` say.
    pub(super) fn yarn(&self) -> Result<Option<Yarn>, FileError> {
        match (self.rope, self.said_of_yarn()?) {
            (RopeScaling::None, _) | (RopeScaling::Auto, None) => Ok(None),
            (RopeScaling::Auto, Some(keys)) => self.read_yarn(&keys).map(Some),
            (RopeScaling::Yarn { factor, original }, said) => {
                let said_positions = self.said_positions()?;
                let original = match original {
                    Some(original) if original > said_positions => {
                        let expected = format!("at least the {original} positions of --rope-scaling");
                        return Err(self.text.found(POSITIONS, &expected, said_positions));
                    }
                    Some(original) => original,
                    None => self.unstretched()?,
                };
                let yarn = match said {
                    Some(keys) => {
                        // one that is said outright is of another factor
                        let attention_factor = Yarn::attention_factor(factor, mscales(&keys)?);
                        Yarn { factor, original, attention_factor, ..self.read_yarn(&keys)? }
                    }
                    None => Yarn::new(factor, original),
                };
                Ok(Some(yarn))
            }
        }
    }

    /// The longest context: what the model was trained for, or as many times as much as it is stretched.
    pub(super) fn max_positions(&self) -> Result<usize, FileError> {
        let Some(yarn) = self.yarn()? else {
            let most = self.unstretched()?;
            if self.text.has(CHUNKS) {
                tracing::warn!("`{CHUNKS}` is not done: the context has {most} positions at most");
            }
            return Ok(most);
        };
        let stretched = yarn.original as f64 * yarn.factor;
        if stretched > MAX_POSITIONS as f64 {
            let expected = format!("at most {MAX_POSITIONS} positions");
            let found = format!("{} that are stretched {} times", yarn.original, yarn.factor);
            return Err(self.text.found(POSITIONS, &expected, found));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited")]
        let stretched = stretched as usize;
        match self.rope {
            // a release may say more than follows from its factor, and knows best
            RopeScaling::Auto => Ok(stretched.max(self.said_positions()?)),
            _ => Ok(stretched.max(1)),
        }
    }

    /// What the configuration says, which with YaRN is the stretched context in some releases and not in others.
    fn said_positions(&self) -> Result<usize, FileError> {
        self.size_in(POSITIONS, 1..=MAX_POSITIONS, "")
    }

    /// The longest context without stretching. With attention in chunks, which is not done here, a model knows what it
    /// knew before.
    fn unstretched(&self) -> Result<usize, FileError> {
        let said = self.said_positions()?;
        if let Some(keys) = self.said_of_yarn()? {
            return Ok(said.min(self.original(&keys)?));
        }
        let Some(chunks) = self.text.object(CHUNKS)? else { return Ok(said) };
        let original = chunks.size(ORIGINAL)?;
        Ok(said.min(original.max(1)))
    }

    /// The object that says YaRN.
    fn said_of_yarn(&self) -> Result<Option<Keys<'_>>, FileError> {
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
        Ok(found)
    }

    /// The positions that the model was trained with, as transformers looks for them.
    fn original(&self, keys: &Keys<'_>) -> Result<usize, FileError> {
        match [&self.text, keys].into_iter().find(|keys| keys.has(ORIGINAL)) {
            None => self.said_positions(),
            Some(holder) => match holder.size(ORIGINAL)? {
                0 => Err(holder.value(ORIGINAL, "1 or more")),
                original => Ok(original),
            },
        }
    }

    fn read_yarn(&self, keys: &Keys<'_>) -> Result<Yarn, FileError> {
        let original = self.original(keys)?;
        let factor = match number(keys, "factor", 1.0, MOST_FACTOR)? {
            Some(factor) => factor,
            // as the reference, where both are said
            None => match self.said_positions()? as f64 / original as f64 {
                factor if factor > 1.0 && factor <= MOST_FACTOR => factor,
                _ => return Err(keys.missing("factor", "how many times longer the context is")),
            },
        };
        // as the reference: 0 is as good as absent
        let beta = |key: &str, default: f64| match number(keys, key, 0.0, 1e6)? {
            Some(beta) if beta > 0.0 => Ok::<f64, FileError>(beta),
            _ => Ok(default),
        };
        let plain = Yarn::new(factor, original);
        let (beta_fast, beta_slow) = (beta("beta_fast", plain.beta_fast)?, beta("beta_slow", plain.beta_slow)?);
        if beta_fast < beta_slow {
            return Err(keys.value("beta_fast", &format!("{beta_slow} (beta_slow) or more")));
        }
        let attention_factor = match number(keys, "attention_factor", 1e-3, MOST_FACTOR)? {
            Some(said) => said,
            None => Yarn::attention_factor(factor, mscales(keys)?),
        };
        let truncate = keys.flag("truncate")?.unwrap_or(plain.truncate);
        Ok(Yarn { beta_fast, beta_slow, truncate, attention_factor, ..plain })
    }
}

/// `mscale` and `mscale_all_dim`, where both are said.
fn mscales(keys: &Keys<'_>) -> Result<Option<[f64; 2]>, FileError> {
    match (number(keys, "mscale", 0.0, MOST_FACTOR)?, number(keys, "mscale_all_dim", 0.0, MOST_FACTOR)?) {
        // as the reference: 0 is as good as absent
        (Some(scale), Some(of_all)) if scale > 0.0 && of_all > 0.0 => Ok(Some([scale, of_all])),
        _ => Ok(None),
    }
}

fn number(keys: &Keys<'_>, key: &str, least: f64, most: f64) -> Result<Option<f64>, FileError> {
    if !keys.has(key) {
        return Ok(None);
    }
    match keys.number(key)? {
        found if (least..=most).contains(&found) => Ok(Some(found)),
        _ => Err(keys.value(key, &format!("a number from {least} to {most}"))),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::path::Path;

    use serde_json::{Value, json};

    use super::super::{read_with, tests::nested};
    use super::*;
    use crate::model::Shape;

    fn shape(config: &Value, rope: &str) -> Result<Shape, FileError> {
        read_with(Path::new("config.json"), &config.to_string(), rope.parse().unwrap()).map(|model| model.shape())
    }

    /// Qwen3.5-35B-A3B with these keys in `rope_parameters`.
    fn with(keys: &Value) -> Value {
        let mut config = nested();
        let rope = config["text_config"]["rope_parameters"].as_object_mut().unwrap();
        rope.extend(keys.as_object().unwrap().clone());
        config
    }

    fn card() -> Value {
        with(&json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262_144 }))
    }

    #[test]
    fn asked_for_as_the_card_says() {
        let asked = shape(&nested(), "yarn:4").unwrap();
        assert_eq!(asked, shape(&card(), "auto").unwrap());
        assert_eq!((asked.max_positions, asked.trained_positions()), (1_048_576, 262_144));
        let less = shape(&nested(), "yarn:1.5:32768").unwrap();
        assert_eq!((less.max_positions, less.trained_positions()), (49_152, 32_768));
        // more than the model was trained with
        let error = shape(&nested(), "yarn:4:1000000").unwrap_err().to_string();
        assert!(error.contains("at least the 1000000 positions of --rope-scaling, found 262144"), "{error}");
        let mut config = nested();
        config["text_config"]["max_position_embeddings"] = json!(10_000_000);
        let error = shape(&config, "yarn:1024").unwrap_err().to_string();
        assert!(error.contains("at most 1073741824 positions, found 10000000 that are stretched 1024"), "{error}");
    }

    #[test]
    fn asked_for_otherwise_than_the_configuration_says() {
        let mut config = card();
        config["text_config"]["max_position_embeddings"] = json!(1_100_000);
        assert_eq!(shape(&config, "auto").unwrap().max_positions, 1_100_000);
        let none = shape(&config, "none").unwrap();
        assert_eq!((none.max_positions, none.yarn()), (262_144, None));
        assert_eq!(none, shape(&nested(), "auto").unwrap());
        // of another factor, with the rest of what it says
        let more = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 65_536,
            "beta_fast": 16, "beta_slow": 2, "truncate": false, "mscale": 0.5, "mscale_all_dim": 0.25 });
        let mut expected = shape(&with(&more), "auto").unwrap().yarn().unwrap();
        assert_eq!((expected.beta_fast, expected.beta_slow, expected.truncate), (16.0, 2.0, false));
        expected.factor = 2.0;
        expected.attention_factor = Yarn::attention_factor(2.0, Some([0.5, 0.25]));
        let found = shape(&with(&more), "yarn:2").unwrap();
        assert_eq!((found.yarn(), found.max_positions), (Some(expected), 131_072));
    }

    /// `_compute_yarn_parameters` and `standardize_rope_params` of transformers 5.24.
    #[test]
    fn what_is_not_said() {
        let mut config = with(&json!({ "rope_type": "yarn", "original_max_position_embeddings": 262_144 }));
        config["text_config"]["max_position_embeddings"] = json!(1_048_576);
        assert_eq!(shape(&config, "auto").unwrap().yarn(), Some(Yarn::new(4.0, 262_144)));
        let mut config = with(&json!({ "rope_type": "yarn", "factor": 2.0, "beta_fast": 0, "beta_slow": null }));
        config["text_config"]["original_max_position_embeddings"] = json!(65_536);
        assert_eq!(shape(&config, "auto").unwrap().yarn(), Some(Yarn::new(2.0, 65_536)));
    }

    /// `Qwen3_5TextRotaryEmbedding` of transformers 5.24 at the last position that the card speaks of: (i, cosine, sine).
    /// Angles are products of f32, of which a bit is up to 0.004 there.
    #[test]
    fn tables_far_beyond_what_was_trained() {
        let table = shape(&nested(), "yarn:4").unwrap().rope_table(1_009_999, 1);
        assert_eq!(table.len(), 64);
        for (i, cosine, sine) in [
            (8, -1.130_669_2, -0.134_402_92),
            (12, 0.421_487_8, 1.057_745_2),
            (15, 0.126_274_67, 1.131_605_9),
            (17, 1.003_017_9, 0.538_917_4),
            (19, 1.101_470_4, -0.288_513_66),
            (22, -0.835_665_4, -0.773_395_3),
            (31, 1.137_635_6, 0.047_562_752),
        ] {
            let found = (table[i], table[32 + i]);
            let near = |a: f32, b: f32| (a - b).abs() < 6e-3;
            assert!(near(found.0, cosine) && near(found.1, sine), "{i}: {found:?} instead of {:?}", (cosine, sine));
        }
    }
}
