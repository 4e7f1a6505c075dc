//! The forward pass, read top to bottom. It computes nothing: it records the operations of a step, once per model.
//!
//! ```text
//! x = embed(tokens)
//! for each layer:
//!     x += mixer(rms_norm(x))          attention or gated delta-net
//!     x += moe(rms_norm(x))            routed experts and the shared expert
//! logits = lm_head(rms_norm(x))
//! ```

use super::config::{Config, LayerKind, LinearConfig};
use super::weights::{AttentionWeights, DeltaNetWeights, LayerWeights, Matrix, MixerWeights, ModelWeights};
use crate::compute::ops::{
    Attention, CombineNorm, DeltaNet, Experts, Input, MatVec, Quantised, RmsNorm, Route, RouterTopK, RowsOf,
    head_channels,
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
        /// The last inputs of the convolution, as `DeltaNet::conv` keeps them.
        conv: View,
        /// `[value_heads * key_dim, value_dim]`
        recurrent: View,
        /// Heads and their sizes.
        shape: LinearConfig,
    },
}

/// Records the forward pass for steps of at most `max_tokens` tokens. Products with affine weights but the router's take
/// activations in the form `activations`. With `look_ahead` every layer also guesses what the next one's router will
/// choose.
pub fn record(
    config: &Config,
    weights: &ModelWeights,
    experts: &ExpertLayout,
    max_tokens: usize,
    activations: Form,
    look_ahead: bool,
) -> Result<Forward, ShapeError> {
    let mut model = Recorder {
        config,
        activations,
        r: Recording::new(max_tokens),
        state: Vec::new(),
        norms: Vec::new(),
        reused: Vec::new(),
    };
    let guess = look_ahead.then(|| model.guess());
    let x = model.r.tensor("x", 1, config.hidden);
    model.r.input = Some(x);
    // activations that every layer uses again
    let normed = model.r.tensor("normed", 1, config.hidden);
    let routed = model.r.tensor("routed", config.top_k, config.hidden);
    // the end of every layer norms its output for what comes next
    model.rms_norm(
        "layer.0.input_norm".into(),
        x,
        &weights.layers[0].input_norm,
        normed,
        Some(weights.layers[0].mixer.first().format),
    )?;
    for (i, layer) in weights.layers.iter().enumerate() {
        let (next_norm, next) = match weights.layers.get(i + 1) {
            Some(next) => (&next.input_norm, next.mixer.first().format),
            None => (&weights.norm, weights.lm_head.format),
        };
        match &layer.mixer {
            MixerWeights::Attention(w) => model.attention(i, w, normed, x)?,
            MixerWeights::DeltaNet(w) => model.delta_net(i, w, normed, x)?,
        }
        let routed_format = experts.layers[i].slot.gate_up.format;
        model.rms_norm(format!("layer.{i}.post_norm"), x, &layer.post_norm, normed, Some(routed_format))?;
        let ahead = match (guess, weights.layers.get(i + 1)) {
            (Some(guess), Some(next)) => Some(model.look_ahead(i + 1, next, guess, x)?),
            _ => None,
        };
        model.moe(i, layer, experts, routed, x, normed, (next_norm, next), ahead)?;
    }
    let logits = model.r.logits_tensor(config.vocab);
    let normed = model.input(normed, weights.lm_head.format, activations)?;
    model.matvec("lm_head".into(), normed, &weights.lm_head, logits, RowsOf::Logits)?;
    Ok(Forward { recording: model.r, state: model.state })
}

struct Recorder<'a> {
    config: &'a Config,
    activations: Form,
    r: Recording,
    state: Vec<LayerState>,
    /// Where norms write in 8 bits.
    norms: Vec<(View, Quantised)>,
    /// Tensors that one layer after the other uses: a chunk of thousands of tokens has room for one layer's.
    reused: Vec<(&'static str, Input)>,
}

/// Tensors of a guess at the next layer's experts.
#[derive(Clone, Copy)]
struct Guess {
    normed: View,
    logits: View,
    ids: View,
    weights: View,
}

impl Recorder<'_> {
    fn attention(&mut self, i: usize, w: &AttentionWeights, input: View, x: View) -> Result<(), ShapeError> {
        let c = self.config;
        let (heads, kv_heads, dim, rotary_dim) = (c.heads, c.kv_heads, c.head_dim, c.rotary_dim);
        let (qkv, _) = self.project(&format!("layer.{i}.qkv"), input, &[&w.q, &w.k, &w.v])?;
        let kv = self.r.kv_cache(format!("layer.{i}"), kv_heads * dim);
        let q_norm = self.r.vector(format!("layer.{i}.q_norm"), &w.q_norm);
        let k_norm = self.r.vector(format!("layer.{i}.k_norm"), &w.k_norm);
        let out = self.only_for("attention", 1, heads * dim, w.o.format, dim.is_multiple_of(32));
        let (gate, eps) = (c.attention_gate, c.rms_eps);
        self.r.push(
            format!("layer.{i}.attention"),
            Attention { qkv, q_norm, k_norm, kv, out, heads, kv_heads, dim, rotary_dim, gate, eps },
        )?;
        self.state.push(LayerState::Attention { kv });
        self.add_matvec(format!("layer.{i}.mixer_out"), out, &w.o, x)
    }

    fn delta_net(&mut self, i: usize, w: &DeltaNetWeights, input: View, x: View) -> Result<(), ShapeError> {
        let shape = self.config.linear.expect("the config of a model with linear layers has their shapes");
        let (_, parts) = self.project(&format!("layer.{i}.qkvzba"), input, &[&w.qkv, &w.z, &w.b, &w.a])?;
        let &[qkv, z, b, a] = parts.as_slice() else { unreachable!("four matrices give four views") };
        let kept = shape.value_heads * (shape.conv_kernel - 1);
        let conv = self.r.state(format!("layer.{i}.conv"), kept, head_channels(&shape));
        let state = self.r.state(format!("layer.{i}.recurrent"), shape.value_heads * shape.key_dim, shape.value_dim);
        let width = shape.value_heads * shape.value_dim;
        let out = self.only_for("delta_net", 1, width, w.out.format, shape.value_dim.is_multiple_of(32));
        let weight = self.r.vector(format!("layer.{i}.conv1d"), &w.conv);
        let a_log = self.r.vector(format!("layer.{i}.a_log"), &w.a_log);
        let dt_bias = self.r.vector(format!("layer.{i}.dt_bias"), &w.dt_bias);
        let norm = self.r.vector(format!("layer.{i}.linear_norm"), &w.norm);
        let eps = self.config.rms_eps;
        self.r.push(
            format!("layer.{i}.delta_net"),
            DeltaNet { qkv, z, b, a, weight, a_log, dt_bias, norm, conv, state, out, shape, eps },
        )?;
        self.state.push(LayerState::DeltaNet { conv, recurrent: state, shape });
        self.add_matvec(format!("layer.{i}.mixer_out"), out, &w.out, x)
    }

    /// Reads `normed`, adds to `x`, and leaves in `normed` what comes next.
    #[expect(clippy::too_many_arguments, reason = "the operands of half a layer")]
    fn moe(
        &mut self,
        i: usize,
        w: &LayerWeights,
        experts: &ExpertLayout,
        routed: View,
        x: View,
        normed: View,
        (next_norm, next): (&[f32], WeightFormat),
        ahead: Option<View>,
    ) -> Result<(), ShapeError> {
        let c = self.config;
        // What the router and the shared expert need first is one product where their format is one. The router's choice
        // is not left to 8 bits.
        let mut matrices = vec![(&w.router, Form::F32)];
        if let Some(s) = &w.shared {
            matrices.extend([(&s.scalar_gate, Form::F32), (&s.gate, self.activations), (&s.up, self.activations)]);
        }
        let (whole, parts) = self.project_with(&format!("layer.{i}.router"), normed, &matrices)?;
        let shared_hidden = w.shared.as_ref().map(|s| {
            let rows = s.gate.rows + s.up.rows;
            let gate_up = whole.columns(whole.width - rows, rows);
            let whole_groups = s.down.cols.is_multiple_of(32);
            let hidden = self.only_for("shared_hidden", 1, s.down.cols, s.down.format, whole_groups);
            (gate_up, hidden)
        });
        let ids = self.r.ids(format!("layer.{i}.ids"), c.top_k);
        let weights = self.reused("weights", 1, c.top_k);
        let (logits, renormalise) = (parts[0], c.renormalise);
        self.r.push(
            format!("layer.{i}.route"),
            RouterTopK { layer: i, logits, ids, weights, renormalise, shared: shared_hidden },
        )?;
        self.r.steps.push(Recorded::Route(Route { layer: i, ids, ahead }));
        // the rest of the shared expert does not wait for the router's choice: it runs while experts are read
        let mut shared = None;
        if let (Some(s), Some((_, hidden))) = (&w.shared, shared_hidden) {
            let out = self.reused("shared_out", 1, c.hidden);
            self.matvec(format!("layer.{i}.shared_out"), hidden, &s.down, out, RowsOf::Tokens)?;
            shared = Some((out, parts[1]));
        }
        let slot = experts.layers[i].slot;
        let tokens = self.input(normed, slot.gate_up.format, self.activations)?;
        let hidden = self.only_for("expert_hidden", c.top_k, c.moe_intermediate, slot.down.format, true);
        let op = Experts { layer: i, slot, x: tokens, hidden, out: routed };
        op.check(&self.r).map_err(|e| ShapeError { label: format!("layer.{i}.experts"), ..e })?;
        self.r.steps.push(Recorded::Experts(Box::new(op)));
        let norm = self.r.vector(format!("layer.{i}.next_norm"), next_norm);
        let (packed, eps) = (self.packed(normed, Some(next)), c.rms_eps);
        let op = CombineNorm { x, routed, weights, shared, norm, out: normed, packed, eps };
        self.r.push(format!("layer.{i}.out"), op)?;
        packed.into_iter().for_each(|packed| self.r.packed(normed, packed));
        Ok(())
    }

    /// Where a norm writes its output in 8 bits too, when a product with weights of `format` is next.
    fn packed(&mut self, out: View, format: Option<WeightFormat>) -> Option<Quantised> {
        let interleave =
            format?.interleave().filter(|_| self.activations == Form::Int8 && out.width.is_multiple_of(32))?;
        let known = self.norms.iter().find(|(of, q)| *of == out && q.interleave == interleave);
        if let Some((_, known)) = known {
            return Some(*known);
        }
        let label = self.r.spec(out.tensor).label.clone();
        let packed = Quantised::tensor(&mut self.r, &label, 1, out.width, interleave);
        self.norms.push((out, packed));
        Some(packed)
    }

    /// What a kernel writes for one product with weights of `format`, and for nothing else: `rows` rows per token, in
    /// 8 bits where `whole_groups` of 32 columns allow it.
    fn only_for(
        &mut self,
        label: &'static str,
        rows: usize,
        width: usize,
        format: WeightFormat,
        whole_groups: bool,
    ) -> Input {
        match format.interleave() {
            Some(interleave) if self.activations == Form::Int8 && whole_groups => {
                let same = |input: &Input| {
                    input.packed().is_some_and(|known| {
                        (known.cols, known.interleave, known.words.rows_per_token) == (width, interleave, rows)
                    })
                };
                if let Some(known) = self.known(label, same) {
                    return known;
                }
                let made = Quantised::tensor(&mut self.r, label, rows, width, interleave).into();
                self.reused.push((label, made));
                made
            }
            _ => self.reused(label, rows, width).into(),
        }
    }

    /// The tensor that layers use for `label`, one after the other.
    fn reused(&mut self, label: &'static str, rows: usize, width: usize) -> View {
        let same = |input: &Input| matches!(input, Input::F32(v) if (v.rows_per_token, v.width) == (rows, width));
        if let Some(known) = self.known(label, same) {
            return known.view();
        }
        let made = self.r.tensor(label, rows, width);
        self.reused.push((label, made.into()));
        made
    }

    fn known(&self, label: &'static str, same: impl Fn(&Input) -> bool) -> Option<Input> {
        self.reused.iter().find(|(of, input)| *of == label && same(input)).map(|(_, input)| *input)
    }

    /// What all layers' guesses are made in.
    fn guess(&mut self) -> Guess {
        let c = self.config;
        let normed = self.r.tensor("ahead.normed", 1, c.hidden);
        let logits = self.r.tensor("ahead.router", 1, c.experts);
        let ids = self.r.ids("ahead.ids", c.top_k);
        let weights = self.r.tensor("ahead.weights", 1, c.top_k);
        Guess { normed, logits, ids, weights }
    }

    /// Guesses what the router of layer `i` will choose: its norm and router on what the layer before starts its
    /// experts from.
    fn look_ahead(&mut self, i: usize, w: &LayerWeights, guess: Guess, x: View) -> Result<View, ShapeError> {
        let Guess { normed, logits, ids, weights } = guess;
        self.rms_norm(format!("ahead.{i}.norm"), x, &w.post_norm, normed, None)?;
        self.matvec(format!("ahead.{i}.router"), normed.into(), &w.router, logits, RowsOf::Tokens)?;
        let renormalise = self.config.renormalise;
        let op = RouterTopK { layer: i, logits, ids, weights, renormalise, shared: None };
        self.r.push(format!("ahead.{i}.route"), op)?;
        Ok(ids)
    }

    /// `next` is the format of the weights that the norm is for.
    fn rms_norm(
        &mut self,
        label: String,
        x: View,
        weight: &[f32],
        out: View,
        next: Option<WeightFormat>,
    ) -> Result<(), ShapeError> {
        let weight = self.r.vector(label.clone(), weight);
        let (packed, eps) = (self.packed(out, next), self.config.rms_eps);
        self.r.push(label, RmsNorm { x, weight, out, packed, eps })?;
        packed.into_iter().for_each(|packed| self.r.packed(out, packed));
        Ok(())
    }

    /// One output with the products of several matrices side by side; those of one format are one product.
    fn project(&mut self, label: &str, x: View, parts: &[&Matrix]) -> Result<(View, Vec<View>), ShapeError> {
        let parts: Vec<_> = parts.iter().map(|&m| (m, self.activations)).collect();
        self.project_with(label, x, &parts)
    }

    /// The same, each matrix with activations in a form of its own.
    fn project_with(
        &mut self,
        label: &str,
        x: View,
        parts: &[(&Matrix, Form)],
    ) -> Result<(View, Vec<View>), ShapeError> {
        let whole = self.reused("projected", 1, parts.iter().map(|(m, _)| m.rows).sum());
        let mut views = Vec::new();
        let mut column = 0;
        // dense weights are multiplied in f32 whatever is asked for
        let form = |(m, form): &(&Matrix, Form)| if m.format.interleave().is_some() { *form } else { Form::F32 };
        for same in parts.chunk_by(|a, b| a.0.format == b.0.format && a.0.cols == b.0.cols && form(a) == form(b)) {
            let activations = form(&same[0]);
            let same: Vec<&Matrix> = same.iter().map(|(m, _)| *m).collect();
            let name = same.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(" | ");
            let stacked = Matrix::stack(&name, &same).expect("chunks have one format and width");
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

    fn add_matvec(&mut self, label: String, x: Input, m: &Matrix, out: View) -> Result<(), ShapeError> {
        let matrix = self.r.matrix(m.clone());
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
