//! How a model's parameters and bytes are spread over its parts.

use flashflood::model::weights::{AttentionWeights, DeltaNetWeights, MixerWeights};
use flashflood::model::{Matrix, ModelSource, ModelWeights};

/// A part of a model.
#[derive(serde::Serialize)]
pub(super) struct Part {
    pub(super) name: &'static str,
    /// Weights, not counting scales and biases of quantisation.
    pub(super) parameters: u64,
    /// In memory; of routed experts on disk.
    pub(super) bytes: u64,
    /// How its matrices are stored, each way once, in order.
    pub(super) formats: Vec<String>,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Part { name, parameters: 0, bytes: 0, formats: Vec::new() }
    }

    fn format(&mut self, format: String) {
        if !self.formats.contains(&format) {
            self.formats.push(format);
        }
    }

    fn matrices(&mut self, matrices: &[&Matrix]) {
        for matrix in matrices {
            self.parameters += matrix.rows as u64 * matrix.cols as u64;
            self.bytes += matrix.bytes() as u64;
            self.format(matrix.format.to_string());
        }
    }

    /// Vectors are in f32 whatever they are on disk.
    fn vectors(&mut self, vectors: &[&[f32]]) {
        for vector in vectors {
            self.parameters += vector.len() as u64;
            self.bytes += size_of_val(*vector) as u64;
        }
    }
}

/// Every weight of `source` in one of its parts, in the order a token meets them.
pub(super) fn parts(source: &ModelSource) -> Vec<Part> {
    let ModelWeights { embed_tokens, lm_head, norm, layers } = &source.weights;
    let mut embedding = Part::new("embedding");
    embedding.matrices(&[embed_tokens]);
    let (mut attention, mut delta_net) = (Part::new("attention"), Part::new("delta-net"));
    let (mut shared, mut router) = (Part::new("shared experts"), Part::new("router"));
    let mut norms = Part::new("norms");
    norms.vectors(&[norm]);
    norms.format("f32".to_owned());
    for layer in layers {
        match &layer.mixer {
            MixerWeights::Attention(AttentionWeights { q, k, v, o, q_norm, k_norm }) => {
                attention.matrices(&[q, k, v, o]);
                norms.vectors(&[q_norm, k_norm]);
            }
            MixerWeights::DeltaNet(DeltaNetWeights { qkv, z, b, a, conv, a_log, dt_bias, norm, out }) => {
                delta_net.matrices(&[qkv, z, b, a, out]);
                delta_net.vectors(&[conv, a_log, dt_bias]);
                norms.vectors(&[norm]);
            }
        }
        if let Some(expert) = &layer.shared {
            shared.matrices(&[&expert.gate, &expert.up, &expert.down, &expert.scalar_gate]);
        }
        router.matrices(&[&layer.router]);
        norms.vectors(&[&layer.input_norm, &layer.post_norm]);
    }
    let mut head = Part::new("lm_head");
    if source.config.tied_embeddings {
        head.format("the embedding".to_owned());
    } else {
        head.matrices(&[lm_head]);
    }
    let mut parts = vec![embedding, attention, delta_net, shared, router, norms, head, routed(source)];
    parts.retain(|part| !part.formats.is_empty());
    parts
}

fn routed(source: &ModelSource) -> Part {
    let mut part = Part::new("routed experts");
    let experts = source.experts.experts as u64;
    for layer in &source.experts.layers {
        part.parameters += experts * source.config.expert_elements() as u64;
        part.bytes += experts * layer.parts.iter().map(|part| part.len as u64).sum::<u64>();
        let (gate_up, down) = (layer.slot.gate_up.format, layer.slot.down.format);
        part.format(match gate_up == down {
            true => gate_up.to_string(),
            false => format!("{gate_up}; down {down}"),
        });
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
        let tied = if source.config.tied_embeddings { 0 } else { embedding };
        assert_eq!(bytes(false) - tied, plan.resident);
        let slots = plan.all_slots as u64 * plan.slot_bytes;
        assert!(bytes(true) <= slots && bytes(true) > slots / 10 * 9, "{} of {slots}", bytes(true));
    }
}
