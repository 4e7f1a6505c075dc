//! How a model's parameters and bytes are spread over its parts.

use flashflood::model::ModelSource;
use flashflood::weights::{Listed, Listing};

/// A part of a model.
#[derive(serde::Serialize)]
pub(in crate::cli) struct ModelPart {
    pub(in crate::cli) name: &'static str,
    /// Weights, not counting scales and biases of quantisation.
    pub(in crate::cli) parameters: u64,
    /// In memory; of routed experts on disk.
    pub(in crate::cli) bytes: u64,
    /// How its matrices are stored, each way once, in order.
    pub(in crate::cli) formats: Vec<String>,
}

impl ModelPart {
    fn new(name: &'static str) -> Self {
        ModelPart { name, parameters: 0, bytes: 0, formats: Vec::new() }
    }

    fn format(&mut self, format: String) {
        if !self.formats.contains(&format) {
            self.formats.push(format);
        }
    }

    fn add(&mut self, weight: &Listed) {
        match weight {
            Listed::Matrix { matrix, .. } => {
                self.parameters += matrix.rows as u64 * matrix.cols as u64;
                self.bytes += matrix.bytes() as u64;
                self.format(matrix.format.to_string());
            }
            // in f32 whatever they are on disk
            Listed::Vector { values, .. } => {
                self.parameters += values.len() as u64;
                self.bytes += size_of_val(&**values) as u64;
                if self.name == "norms" {
                    self.format("f32".to_owned());
                }
            }
        }
    }
}

/// Every weight of `source` in one of its parts, in the order a token meets them.
pub(in crate::cli) fn parts(source: &ModelSource) -> Vec<ModelPart> {
    let names = ["embedding", "attention", "delta-net", "feed-forward", "shared experts", "router", "norms", "lm_head"];
    let mut parts: Vec<ModelPart> = names.into_iter().map(ModelPart::new).collect();
    for weight in &source.weights.resident {
        let name = weight.part();
        match parts.iter_mut().find(|part| part.name == name) {
            Some(part) => part.add(weight),
            None => {
                let mut part = ModelPart::new(name);
                part.add(weight);
                parts.push(part);
            }
        }
    }
    if source.shape.tied_embeddings
        && let Some(head) = parts.iter_mut().find(|part| part.name == "lm_head")
    {
        head.format("the embedding".to_owned());
    }
    parts.push(routed(source));
    parts.retain(|part| !part.formats.is_empty());
    parts
}

fn routed(source: &ModelSource) -> ModelPart {
    let mut part = ModelPart::new("routed experts");
    for layer in &source.experts().layers {
        let bytes: u64 = layer.parts.iter().map(|part| part.len as u64).sum();
        part.parameters += Listing::expert_parameters(layer).0;
        part.bytes += layer.experts as u64 * bytes;
        part.format(layer.slot.formats());
    }
    part
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn no_weight_is_left_out() {
        let source = ModelSource::embedded().unwrap();
        let parts = parts(&source);
        let bytes = |routed: bool| {
            let parts = parts.iter().filter(|part| (part.name == "routed experts") == routed);
            parts.map(|part| part.bytes).sum::<u64>()
        };
        // what the forward pass takes, but for padding of slots and the embedding, of which it reads rows
        let options = flashflood::engine::EngineOptions::default();
        let device = flashflood::engine::OpenedDevice::Cpu;
        let plan = flashflood::engine::Engine::plan_for(&source, &device, &options).unwrap();
        let embedding = parts[0].bytes;
        let tied = if source.shape.tied_embeddings { 0 } else { embedding };
        assert_eq!(bytes(false) - tied, plan.resident);
        let slots = plan.all_slots as u64 * plan.slot_bytes;
        assert!(bytes(true) <= slots && bytes(true) > slots / 10 * 9, "{} of {slots}", bytes(true));
    }
}
