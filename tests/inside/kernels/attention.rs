//! `attention` and the KV cache: `attention` fills it in decode, `kv_norm_rope` for `attention_prefill`, which prompts take and
//! tokens deep in a context.

use crate::compute::KvFormat;
use crate::compute::ops::Attention;
use crate::weights::WeightFormat;
use proptest::prelude::*;

use super::cases;
use super::random::Random;
use super::trial::Trial;

/// Heads of one attention layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) kv_heads: usize,
    pub(crate) queries_per_key: usize,
    pub(crate) dim: usize,
    pub(crate) rotary_dim: usize,
    pub(crate) gate: bool,
}

pub(crate) fn heads() -> impl Strategy<Value = Heads> {
    let dims = prop_oneof![Just(32usize), Just(64), Just(128), Just(256), (8usize..64).prop_map(|n| 4 * n)];
    let queries_per_key = prop_oneof![1usize..4, 5usize..17];
    (1usize..3, queries_per_key, dims, 0usize..5, any::<bool>()).prop_map(
        |(kv_heads, queries_per_key, dim, quarters, gate)| {
            // an even number of elements is rotated: none, some, all
            Heads { kv_heads, queries_per_key, dim, rotary_dim: dim * quarters / 4 / 2 * 2, gate }
        },
    )
}

/// The optional operands of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) q_norm: bool,
    pub(crate) k_norm: bool,
    pub(crate) bias: bool,
    pub(crate) sinks: bool,
    pub(crate) window: Option<usize>,
}

impl Operands {
    /// As Qwen has it.
    pub(crate) const NORMS: Operands = Operands { q_norm: true, k_norm: true, bias: false, sinks: false, window: None };
}

pub(crate) fn attention_layer(seed: u64, h: Heads, max_tokens: usize) -> Trial {
    attention_with(seed, h, Operands::NORMS, max_tokens)
}

/// With keys and values in any format.
pub(crate) fn attention_with(seed: u64, h: Heads, operands: Operands, max_tokens: usize) -> Trial {
    let mut kept = vec![KvFormat::F32, KvFormat::F16, KvFormat::Q8];
    if h.dim.is_multiple_of(32) {
        kept.extend([KvFormat::Tq4, KvFormat::K8v4]);
    }
    let kept = Random::new(seed).one_of(&kept);
    attention_kept(seed, h, operands, kept, max_tokens)
}

pub(crate) fn attention_kept(seed: u64, h: Heads, operands: Operands, kept: KvFormat, max_tokens: usize) -> Trial {
    let heads = h.kv_heads * h.queries_per_key;
    let (kv_heads, dim, rotary_dim) = (h.kv_heads, h.dim, h.rotary_dim);
    let q_head = if h.gate { 2 * dim } else { dim };
    let mut trial = Trial::new(seed, max_tokens);
    trial.rotary_dim = rotary_dim;
    let columns = heads * q_head + 2 * kv_heads * dim;
    let qkv = trial.filled(1, columns, |random, row| {
        let size = random.uniform(0.1, 4.0);
        row.fill_with(|| random.uniform(-size, size));
    });
    let q_norm = operands.q_norm.then(|| trial.vector(dim, -2.0, 2.0));
    let k_norm = operands.k_norm.then(|| trial.vector(dim, -2.0, 2.0));
    let bias = operands.bias.then(|| trial.vector(columns, -1.0, 1.0));
    let sinks = operands.sinks.then(|| trial.vector(heads, -4.0, 8.0));
    let window = operands.window;
    let formats = kept.of_heads(dim);
    let kv = trial.kv_cache(kv_heads * dim, formats);
    let format = WeightFormat::affine(trial.random.one_of(&[2, 3, 4, 8]), 64);
    let packs = dim % 32 == 0 && trial.random.below(2) == 0;
    let out = if packs { trial.inner(1, heads * dim, format) } else { trial.tensor(1, heads * dim).into() };
    let (gate, eps) = (h.gate, 1e-6);
    #[rustfmt::skip]
    trial.push(Attention {
        qkv, q_norm, k_norm, bias, sinks, window, kv, formats, out, heads, kv_heads, dim, rotary_dim, gate, eps,
    });
    trial.kv_within(1e-6, 3e-6);
    match kept {
        KvFormat::F32 => {}
        // the next half; the next code of 127; a level, and the factor of a head
        KvFormat::F16 => trial.other_codes_within(1e-2, 2e-2),
        KvFormat::Q8 => trial.other_codes_within(0.2, 0.3),
        KvFormat::Tq4 | KvFormat::K8v4 => trial.other_codes_within(4.0, 2.0),
    }
    // scores are up to 40 with errors of a few units in the last place of that; exp makes them relative errors
    trial.within(out.view(), 4e-5, 2e-5);
    trial
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn attention(seed in any::<u64>(), heads in heads(), steps in prop::collection::vec(1usize..12, 1..5)) {
        attention_layer(seed, heads, *steps.iter().max().unwrap()).check(&steps)?;
    }
}

/// Tokens of decode by the tiles of a prompt, in two splits and in three, with all formats of caches.
#[test]
fn deep_attention() {
    for (at, kept) in KvFormat::ALL.into_iter().enumerate() {
        let heads =
            Heads { kv_heads: 2, queries_per_key: [1, 3, 8, 17, 5][at], dim: 64, rotary_dim: 16, gate: at % 2 == 0 };
        let more = Operands { sinks: true, bias: true, window: Some(300), ..Operands::NORMS };
        let mut trial = attention_kept(at as u64, heads, [Operands::NORMS, more][at % 2], kept, 509);
        trial.deep_attention = Some(1);
        trial.same_behind_a_prompt(509, 6).unwrap_or_else(|e| panic!("{kept}: {e}"));
    }
}

/// Steps that end at, just before and just after positions where a split of attention begins: every 512 in decode, every
/// 1,024 in prefill or with a window.
pub(crate) fn long_steps() -> impl Strategy<Value = Vec<usize>> {
    (500usize..520, 1usize..20, 515usize..540, 1usize..4).prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

proptest! {
    #![proptest_config(cases(1))]

    /// Two or three splits in one window, then in a window each: scratch holds the splits of few tokens there.
    #[test]
    fn attention_over_splits(
        seed in any::<u64>(),
        dim in prop::sample::select(vec![32, 36]),
        queries_per_key in 1usize..4,
        steps in long_steps(),
    ) {
        let heads = Heads { kv_heads: 1, queries_per_key, dim, rotary_dim: 16, gate: seed % 2 == 0 };
        let mut trial = attention_layer(seed, heads, 540);
        // one by one where splits begin
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
