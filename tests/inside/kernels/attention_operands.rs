//! What is optional in `attention`: norms, bias, sinks and a window, each alone and all together.

use std::sync::Arc;

use crate::compute::cpu::CpuExecutor;
use crate::compute::ops::Attention;
use crate::compute::{LogitRows, Recording, Step};
use flashflood_formats::CacheFormat;
use proptest::prelude::*;

use super::attention::{Heads, Operands, attention_with, heads, long_steps};
use super::cases;
use super::random::Random;

/// One operand, all, or any.
fn operands(window: impl Strategy<Value = usize> + Clone) -> impl Strategy<Value = Operands> {
    let none = Operands { q_norm: false, k_norm: false, bias: false, sinks: false, window: None };
    let all = move |window| Operands { q_norm: true, k_norm: true, bias: true, sinks: true, window: Some(window) };
    let one_or_none = prop::sample::select(vec![
        none,
        Operands { q_norm: true, ..none },
        Operands { k_norm: true, ..none },
        Operands { bias: true, ..none },
        Operands { sinks: true, ..none },
    ]);
    let any = (any::<[bool; 4]>(), prop::option::of(window.clone()))
        .prop_map(|([q_norm, k_norm, bias, sinks], window)| Operands { q_norm, k_norm, bias, sinks, window });
    prop_oneof![
        one_or_none,
        window.clone().prop_map(move |window| Operands { window: Some(window), ..none }),
        window.prop_map(all),
        any
    ]
}

proptest! {
    #![proptest_config(cases(10))]

    #[test]
    fn attention_with_operands(
        seed in any::<u64>(),
        heads in heads(),
        operands in operands(1usize..30),
        steps in prop::collection::vec(1usize..12, 1..5),
    ) {
        attention_with(seed, heads, operands, *steps.iter().max().unwrap()).check(&steps)?;
    }
}

proptest! {
    #![proptest_config(cases(2))]

    /// Windows that reach into the split before, over whole splits, and less than a run; in one window of the cache and in
    /// several.
    #[test]
    fn attention_operands_over_splits(
        seed in any::<u64>(),
        (dim, queries_per_key) in (prop::sample::select(vec![32, 36]), 1usize..4),
        operands in operands(prop_oneof![1usize..5, 20usize..150, 500usize..530, 900usize..1100]),
        steps in long_steps(),
    ) {
        let heads = Heads { kv_heads: 1, queries_per_key, dim, rotary_dim: 16, gate: seed % 2 == 0 };
        let mut trial = attention_with(seed, heads, operands, 540);
        let mut other = vec![490];
        other.extend([1; 35]);
        other.push(480);
        other.extend(vec![1; steps.iter().sum::<usize>() - 490 - 35 - 480]);
        for binding in [u64::MAX, 1 << 16] {
            trial.binding = binding;
            trial.check_cut(&steps, &other)?;
        }
    }
}

/// The contents of a layer whose `qkv` has `columns` columns.
struct Layer {
    heads: Heads,
    qkv: Vec<Vec<f32>>,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
    window: Option<usize>,
    /// Cosines, then sines, of each position.
    rope: Vec<Vec<f32>>,
}

impl Layer {
    fn new(random: &mut Random, heads: Heads, operands: Operands, tokens: usize) -> Self {
        let Heads { kv_heads, queries_per_key, dim, rotary_dim, gate } = heads;
        let q_head = if gate { 2 * dim } else { dim };
        let columns = kv_heads * (queries_per_key * q_head + 2 * dim);
        let mut numbers = |n: usize| random.floats(n, -1.5, 1.5);
        Layer {
            heads,
            qkv: (0..tokens).map(|_| numbers(columns)).collect(),
            q_norm: operands.q_norm.then(|| numbers(dim)),
            k_norm: operands.k_norm.then(|| numbers(dim)),
            bias: operands.bias.then(|| numbers(columns)),
            sinks: operands.sinks.then(|| numbers(kv_heads * queries_per_key)),
            window: operands.window,
            rope: (0..tokens).map(|_| numbers(rotary_dim)).collect(),
        }
    }

    fn columns(&self, t: usize, first: usize) -> Vec<f64> {
        let bias = |i: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[first + i]));
        (0..self.heads.dim).map(|i| f64::from(self.qkv[t][first + i]) + bias(i)).collect()
    }

    fn head(&self, t: usize, first: usize, norm: Option<&Vec<f32>>) -> Vec<f64> {
        let mut x = self.columns(t, first);
        if let Some(norm) = norm {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            x.iter_mut().zip(norm).for_each(|(x, w)| *x *= f64::from(*w) / (mean + 1e-6).sqrt());
        }
        let half = self.heads.rotary_dim / 2;
        for i in 0..half {
            let (a, b) = (x[i], x[i + half]);
            let [cos, sin] = [i, i + half].map(|i| f64::from(self.rope[t][i]));
            (x[i], x[i + half]) = (a * cos - b * sin, b * cos + a * sin);
        }
        x
    }

    /// The definition, in f64: all scores at once.
    fn attend(&self, t: usize, h: usize) -> Vec<f64> {
        let Heads { kv_heads, queries_per_key, dim, gate, .. } = self.heads;
        let q_head = if gate { 2 * dim } else { dim };
        let keys = kv_heads * queries_per_key * q_head;
        let of_kv = h / queries_per_key * dim;
        let q = self.head(t, h * q_head, self.q_norm.as_ref());
        let first = self.window.map_or(0, |window| (t + 1).saturating_sub(window));
        let weight = |position: usize| {
            let k = self.head(position, keys + of_kv, self.k_norm.as_ref());
            (q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()).exp()
        };
        let weights: Vec<f64> = (first..=t).map(weight).collect();
        let sink = self.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[h]).exp());
        let total = weights.iter().sum::<f64>() + sink;
        let mut out = vec![0.0; dim];
        for (position, weight) in (first..).zip(weights) {
            let v = self.columns(position, keys + kv_heads * dim + of_kv);
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / total * v);
        }
        if gate {
            let gate = self.columns(t, h * q_head + dim);
            out.iter_mut().zip(gate).for_each(|(out, gate)| *out /= 1.0 + (-gate).exp());
        }
        out
    }

    /// What the CPU twin makes of it, `[tokens, heads * dim]`.
    fn by_twin(&self) -> Vec<f32> {
        let Heads { kv_heads, queries_per_key, dim, rotary_dim, gate } = self.heads;
        let (tokens, heads) = (self.qkv.len(), kv_heads * queries_per_key);
        let mut recording = Recording::new(tokens);
        let qkv = recording.tensor("qkv", 1, self.qkv[0].len());
        let out = recording.tensor("out", 1, heads * dim);
        let kv = recording.kv_cache("kv", kv_heads * dim, [CacheFormat::F32; 2]);
        let [q_norm, k_norm, bias, sinks] = [&self.q_norm, &self.k_norm, &self.bias, &self.sinks]
            .map(|values| values.as_ref().map(|values| recording.vector("vector", values)));
        let (window, out_input, eps) = (self.window, out.into(), 1e-6);
        #[rustfmt::skip]
        let op = Attention {
            qkv, q_norm, k_norm, bias, sinks, window, kv, formats: [CacheFormat::F32; 2], out: out_input, heads, kv_heads, dim, rotary_dim, gate, eps,
        };
        recording.push("attention", op).unwrap();
        let mut cpu = CpuExecutor::new(Arc::new(recording), tokens, None);
        // widths are multiples of 4, as strides are
        cpu.write(qkv.tensor, &self.qkv.concat());
        cpu.run(Step::prefill(tokens, 0, LogitRows::Last), &[], &self.rope.concat(), None).unwrap();
        cpu.read(out.tensor).to_vec()
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// The twin does what the words say.
    #[test]
    fn attention_twin_by_definition(
        seed in any::<u64>(),
        heads in heads(),
        operands in operands(1usize..12),
        tokens in 1usize..10,
    ) {
        let layer = Layer::new(&mut Random::new(seed), heads, operands, tokens);
        let heads = heads.kv_heads * heads.queries_per_key;
        for (i, found) in layer.by_twin().chunks_exact(layer.heads.dim).enumerate() {
            let (t, h) = (i / heads, i % heads);
            for (found, expected) in found.iter().zip(layer.attend(t, h)) {
                let apart = (f64::from(*found) - expected).abs();
                prop_assert!(apart < 2e-5 + 2e-5 * expected.abs(), "token {t}, head {h}: {found} for {expected}");
            }
        }
    }
}

/// A layer whose operands do not fit.
#[test]
fn attention_refuses_what_does_not_fit() {
    let mut recording = Recording::new(1);
    let (heads, kv_heads, dim) = (2, 1, 8);
    let qkv = recording.tensor("qkv", 1, (heads + 2 * kv_heads) * dim);
    let out = recording.tensor("out", 1, heads * dim).into();
    let kv = recording.kv_cache("kv", kv_heads * dim, [CacheFormat::F32; 2]);
    let short = Some(recording.vector("short", &[0.0]));
    let plain = |window| Attention {
        qkv,
        q_norm: None,
        k_norm: None,
        bias: None,
        sinks: None,
        window,
        kv,
        formats: [CacheFormat::F32; 2],
        out,
        heads,
        kv_heads,
        dim,
        rotary_dim: dim,
        gate: false,
        eps: 1e-6,
    };
    let refused = [
        (Attention { q_norm: short, ..plain(None) }, "q_norm: expected 8, found 1"),
        (Attention { k_norm: short, ..plain(None) }, "k_norm: expected 8, found 1"),
        (Attention { bias: short, ..plain(None) }, "bias: expected 32, found 1"),
        (Attention { sinks: short, ..plain(None) }, "sinks: expected 2, found 1"),
        (plain(Some(0)), "window: expected at least 1 position, found 0"),
    ];
    for (op, message) in refused {
        let error = recording.push("attention", op).unwrap_err().to_string();
        assert!(error.ends_with(message), "{error}");
    }
    recording.push("attention", plain(Some(1))).unwrap();
}
