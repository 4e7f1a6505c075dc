//! The forward pass, read top to bottom. It computes nothing: it records the operations of a step, once per model.
//!
//! ```text
//! x = embed(tokens)
//! for each layer:
//!     x += mixer(rms_norm(x))          attention or gated delta-net
//!     x += moe(rms_norm(x))            routed experts and the shared expert
//! logits = lm_head(rms_norm(x))
//! ```

use super::config::{Config, LayerKind};
use super::weights::{AttentionWeights, DeltaNetWeights, LayerWeights, Matrix, MixerWeights, ModelWeights};
use crate::compute::ops::{
    Attention, Combine, ConvSilu, DeltaNet, Experts, GatedRmsNorm, Input, MatVec, QkNormRope, Quantised, RmsNorm,
    Route, RouterTopK, RowsOf, SwiGlu,
};
use crate::compute::shaders::Form;
use crate::compute::{KvId, Recorded, Recording, ShapeError, View};
use crate::experts::ExpertLayout;
use crate::formats::WeightFormat;

/// A recorded model.
pub struct Forward {
    /// The operations.
    pub recording: Recording,
    /// What each layer keeps from step to step.
    pub state: Vec<LayerState>,
}

/// What a layer keeps from step to step.
#[derive(Clone, Copy, Debug)]
pub enum LayerState {
    /// Full attention.
    Attention {
        /// Keys and values of every position.
        kv: KvId,
    },
    /// Gated delta-net.
    DeltaNet {
        /// `[taps - 1, channels]`: the last inputs of the convolution, oldest first.
        conv: View,
        /// `[value_heads * key_dim, value_dim]`
        recurrent: View,
    },
}

/// Records the forward pass for steps of at most `max_tokens` tokens. Products with affine weights but the router's take
/// activations in the form `activations`.
pub fn record(
    config: &Config,
    weights: &ModelWeights,
    experts: &ExpertLayout,
    max_tokens: usize,
    activations: Form,
) -> Result<Forward, ShapeError> {
    let mut model = Recorder { config, activations, r: Recording::new(max_tokens), state: Vec::new() };
    let x = model.r.tensor("x", 1, config.hidden);
    model.r.input = Some(x);
    // activations that every layer uses again
    let normed = model.r.tensor("normed", 1, config.hidden);
    let routed = model.r.tensor("routed", config.top_k, config.hidden);
    for (i, layer) in weights.layers.iter().enumerate() {
        model.rms_norm(format!("layer.{i}.input_norm"), x, &layer.input_norm, normed)?;
        match &layer.mixer {
            MixerWeights::Attention(w) => model.attention(i, w, normed, x)?,
            MixerWeights::DeltaNet(w) => model.delta_net(i, w, normed, x)?,
        }
        model.rms_norm(format!("layer.{i}.post_norm"), x, &layer.post_norm, normed)?;
        model.moe(i, layer, experts, normed, routed, x)?;
    }
    model.rms_norm("final_norm".into(), x, &weights.norm, normed)?;
    let logits = model.r.tensor("logits", 1, config.vocab);
    let normed = model.input(normed, weights.lm_head.format, activations)?;
    model.matvec("lm_head".into(), normed, &weights.lm_head, logits, RowsOf::Logits)?;
    model.r.logits = Some(logits);
    Ok(Forward { recording: model.r, state: model.state })
}

struct Recorder<'a> {
    config: &'a Config,
    activations: Form,
    r: Recording,
    state: Vec<LayerState>,
}

impl Recorder<'_> {
    fn attention(&mut self, i: usize, w: &AttentionWeights, input: View, x: View) -> Result<(), ShapeError> {
        let c = self.config;
        let (heads, kv_heads, dim) = (c.heads, c.kv_heads, c.head_dim);
        // with the gate, the rows of a head are its query, then its gate
        let q_head = if c.attention_gate { 2 * dim } else { dim };
        let (qkv, _) = self.project(&format!("layer.{i}.qkv"), input, &[&w.q, &w.k, &w.v])?;
        let kv = self.r.kv_cache(format!("layer.{i}"), kv_heads * dim);
        let q = self.r.tensor(format!("layer.{i}.q"), 1, heads * dim);
        let q_norm = self.r.vector(format!("layer.{i}.q_norm"), &w.q_norm);
        let k_norm = self.r.vector(format!("layer.{i}.k_norm"), &w.k_norm);
        let (rotary_dim, eps) = (c.rotary_dim, c.rms_eps);
        self.r.push(
            format!("layer.{i}.q_rope"),
            QkNormRope { qkv, heads, kv_heads, dim, rotary_dim, q_head, q_norm, k_norm, q, kv, eps },
        )?;
        let out = self.r.tensor(format!("layer.{i}.attention"), 1, heads * dim);
        let gate = c.attention_gate.then(|| (qkv.columns(dim, heads * q_head - dim), q_head));
        self.r.push(format!("layer.{i}.attention"), Attention { q, kv, gate, out, heads, kv_heads, dim })?;
        self.state.push(LayerState::Attention { kv });
        self.add_matvec(format!("layer.{i}.mixer_out"), out, &w.o, x)
    }

    fn delta_net(&mut self, i: usize, w: &DeltaNetWeights, input: View, x: View) -> Result<(), ShapeError> {
        let shape = self.config.linear.expect("the config of a model with linear layers has their shapes");
        let (_, parts) = self.project(&format!("layer.{i}.qkvzba"), input, &[&w.qkv, &w.z, &w.b, &w.a])?;
        let &[qkv, z, b, a] = parts.as_slice() else { unreachable!("four matrices give four views") };
        let (channels, taps) = (shape.channels(), shape.conv_kernel);
        let conv = self.r.state(format!("layer.{i}.conv"), taps - 1, channels);
        let mixed = self.r.tensor(format!("layer.{i}.conv_out"), 1, channels);
        let weight = self.r.vector(format!("layer.{i}.conv1d"), &w.conv);
        self.r.push(format!("layer.{i}.conv_out"), ConvSilu { u: qkv, weight, state: conv, out: mixed, taps })?;
        let recurrent =
            self.r.state(format!("layer.{i}.recurrent"), shape.value_heads * shape.key_dim, shape.value_dim);
        let read = self.r.tensor(format!("layer.{i}.delta_net"), 1, shape.value_heads * shape.value_dim);
        let a_log = self.r.vector(format!("layer.{i}.a_log"), &w.a_log);
        let dt_bias = self.r.vector(format!("layer.{i}.dt_bias"), &w.dt_bias);
        self.r.push(
            format!("layer.{i}.delta_net"),
            DeltaNet { qkv: mixed, a, b, a_log, dt_bias, state: recurrent, out: read, shape },
        )?;
        let out = self.r.tensor(format!("layer.{i}.gated"), 1, read.width);
        let weight = self.r.vector(format!("layer.{i}.linear_norm"), &w.norm);
        let (dim, eps) = (shape.value_dim, self.config.rms_eps);
        self.r.push(format!("layer.{i}.gated"), GatedRmsNorm { x: read, gate: z, weight, out, dim, eps })?;
        self.state.push(LayerState::DeltaNet { conv, recurrent });
        self.add_matvec(format!("layer.{i}.mixer_out"), out, &w.out, x)
    }

    fn moe(
        &mut self,
        i: usize,
        w: &LayerWeights,
        experts: &ExpertLayout,
        input: View,
        routed: View,
        x: View,
    ) -> Result<(), ShapeError> {
        let c = self.config;
        let router: Vec<&Matrix> =
            std::iter::once(&w.router).chain(w.shared.as_ref().map(|s| &s.scalar_gate)).collect();
        let (_, parts) = self.project_with(&format!("layer.{i}.router"), input, &router, Form::F32)?;
        let ids = self.r.ids(format!("layer.{i}.ids"), c.top_k);
        let weights = self.r.tensor(format!("layer.{i}.weights"), 1, c.top_k);
        self.r.push(
            format!("layer.{i}.route"),
            RouterTopK { logits: parts[0], ids, weights, renormalise: c.renormalise },
        )?;
        self.r.steps.push(Recorded::Route(Route { layer: i, ids }));
        // the shared expert does not wait for the router's choice: it runs while experts are read
        let mut shared = None;
        if let Some(s) = &w.shared {
            let (gate_up, _) = self.project(&format!("layer.{i}.shared_gate_up"), input, &[&s.gate, &s.up])?;
            let hidden = self.r.tensor(format!("layer.{i}.shared_hidden"), 1, s.down.cols);
            self.r.push(format!("layer.{i}.shared_hidden"), SwiGlu { gate_up, out: hidden })?;
            let out = self.r.tensor(format!("layer.{i}.shared_out"), 1, c.hidden);
            let hidden = self.input(hidden, s.down.format, self.activations)?;
            self.matvec(format!("layer.{i}.shared_out"), hidden, &s.down, out, RowsOf::Tokens)?;
            shared = Some((out, parts[1]));
        }
        let slot = experts.layers[i].slot;
        let tokens = self.input(input, slot.gate_up.format, self.activations)?;
        let label = format!("layer.{i}.expert_hidden");
        let hidden = match slot.down.format.interleave() {
            Some(interleave) if self.activations == Form::Int8 => {
                Quantised::tensor(&mut self.r, &label, c.top_k, c.moe_intermediate, interleave).into()
            }
            _ => self.r.tensor(label, c.top_k, c.moe_intermediate).into(),
        };
        let op = Experts { layer: i, slot, x: tokens, hidden, out: routed };
        op.check(&self.r).map_err(|e| ShapeError { label: format!("layer.{i}.experts"), ..e })?;
        self.r.steps.push(Recorded::Experts(Box::new(op)));
        self.r.push(format!("layer.{i}.out"), Combine { x, routed, weights, shared })
    }

    fn rms_norm(&mut self, label: String, x: View, weight: &[f32], out: View) -> Result<(), ShapeError> {
        let weight = self.r.vector(label.clone(), weight);
        let eps = self.config.rms_eps;
        self.r.push(label, RmsNorm { x, weight, out, eps })
    }

    /// One output with the products of several matrices side by side; those of one format are one product.
    fn project(&mut self, label: &str, x: View, parts: &[&Matrix]) -> Result<(View, Vec<View>), ShapeError> {
        self.project_with(label, x, parts, self.activations)
    }

    fn project_with(
        &mut self,
        label: &str,
        x: View,
        parts: &[&Matrix],
        activations: Form,
    ) -> Result<(View, Vec<View>), ShapeError> {
        let whole = self.r.tensor(label, 1, parts.iter().map(|m| m.rows).sum());
        let mut views = Vec::new();
        let mut column = 0;
        for same in parts.chunk_by(|a, b| a.format == b.format && a.cols == b.cols) {
            let name = same.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(" | ");
            let stacked = Matrix::stack(&name, same).expect("chunks have one format and width");
            let out = whole.columns(column, stacked.rows);
            let x = self.input(x, stacked.format, activations)?;
            self.matvec(label.to_owned(), x, &stacked, out, RowsOf::Tokens)?;
            for matrix in same {
                views.push(whole.columns(column, matrix.rows));
                column += matrix.rows;
            }
        }
        Ok((whole, views))
    }

    /// `x` as products with weights of `format` take it.
    fn input(&mut self, x: View, format: WeightFormat, activations: Form) -> Result<Input, ShapeError> {
        match format.interleave() {
            Some(interleave) if activations == Form::Int8 => Ok(self.r.quantised(x, interleave)?.into()),
            _ => Ok(x.into()),
        }
    }

    fn matvec(&mut self, label: String, x: Input, m: &Matrix, out: View, rows: RowsOf) -> Result<(), ShapeError> {
        let matrix = self.r.matrix(m.clone());
        self.r.push(label, MatVec { x, matrix, out, accumulate: false, rows })
    }

    fn add_matvec(&mut self, label: String, x: View, m: &Matrix, out: View) -> Result<(), ShapeError> {
        let matrix = self.r.matrix(m.clone());
        let x = self.input(x, m.format, self.activations)?;
        self.r.push(label, MatVec { x, matrix, out, accumulate: true, rows: RowsOf::Tokens })
    }
}

/// Cosines, then sines, for positions `first..first + tokens`: `[tokens, rotary_dim]`.
///
/// Made on the CPU: WGSL only specifies sine and cosine on [-pi, pi]. The angle is a product of f32 as in the reference.
pub fn rope_table(config: &Config, first: usize, tokens: usize) -> Vec<f32> {
    if !config.layers.contains(&LayerKind::FullAttention) {
        return vec![0.0; 4];
    }
    let half = config.rotary_dim / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|i| (1.0 / config.rope_theta.powf(2.0 * i as f64 / config.rotary_dim as f64)) as f32).collect();
    let mut table = Vec::with_capacity(tokens * config.rotary_dim);
    for position in first..first + tokens {
        let angles = frequencies.iter().map(|f| position as f32 * f);
        table.extend(angles.clone().map(f32::cos));
        table.extend(angles.map(f32::sin));
    }
    table
}
