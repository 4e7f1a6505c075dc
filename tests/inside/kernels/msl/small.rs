//! Short scripts of what the property tests only reach in long ones: `barriers` tries these first.

use crate::compute::ops::{Matmul, RowsOf, Tile};
use crate::compute::shaders::Form;
use crate::compute::{KvFormat, LogitRows};

use crate::inside::kernels::attention::{Heads, Operands, attention_kept};
use crate::inside::kernels::expert_down;
use crate::inside::kernels::experts::{layout, routed, with_routers};
use crate::inside::kernels::random::{Random, formats};
use crate::inside::kernels::trial::Trial;
use crate::inside::kernels::{matmul, matmul_norm};

/// Experts whose inputs are packed in 8 bits, or the values in between, or both.
#[test]
fn packed_experts() {
    if super::phase().is_none() {
        return;
    }
    for names in [["q4"; 3], ["bf16", "bf16", "q4"], ["q4", "q4", "bf16"], ["q4", "q8", "q4"], ["bf16", "q4", "q4"]] {
        let mut random = Random::new(1);
        let layout = layout(&mut random, 2, &[names.map(|name| formats(name)[0])]);
        routed(2, layout, 2, 2, 2, Form::Int8).check(&[2]).unwrap();
    }
}

/// The last product of a token's experts with what combines them, of more experts than a workgroup takes at a time.
#[test]
fn experts_and_their_sum() {
    if super::phase().is_none() {
        return;
    }
    let format = formats("q4")[0];
    expert_down::layer(3, [format; 3], 10, 9, expert_down::Shared::Gated).check(&[1]).unwrap();
}

/// A product onto the residual stream whose norm is packed, and one whose norm is not.
#[test]
fn norms_of_products() {
    if super::phase().is_none() {
        return;
    }
    for form in [Form::F32, Form::Int8] {
        for packs in [true, false] {
            matmul_norm::product((1, formats("q4")[0], form), (64, 64), packs, &[1]).unwrap();
        }
    }
}

/// Tiles of many tokens of an expert.
#[test]
fn large_tiles() {
    if super::phase().is_none() {
        return;
    }
    for form in [Form::F32, Form::Int8] {
        let mut random = Random::new(1);
        let format = formats("q4")[0];
        let layout = layout(&mut random, 1, &[[format; 3]]);
        routed(2, layout, 1, 1, 41, form).check(&[41]).unwrap();
    }
}

/// Few rows, whose columns are in parts: blocks that no part has are missing in one and in another.
#[test]
fn columns_in_parts() {
    if super::phase().is_none() {
        return;
    }
    let (rows, cols, tokens) = (289, 160, 249);
    assert_eq!(Tile::choose(Tile::of_matrix(Form::F32, rows), rows, tokens), 1);
    let mut trial = Trial::new(4, tokens);
    trial.logits = LogitRows::All;
    let matrix = trial.matrix(formats("f16")[0], rows, cols);
    let (x, out) = (trial.tensor(1, cols).into(), trial.tensor(1, rows));
    trial.push(Matmul { x, matrix, out, accumulate: true, exact: true, rows: RowsOf::Tokens, unscaled: None });
    trial.within(out, matmul::atol(cols), 1e-6);
    trial.check(&[tokens]).unwrap();
}

/// Pairs that are grouped by expert without the host: an expert that nearly all tokens chose, and tiles of every size.
#[test]
fn grouped_pairs() {
    if super::phase().is_none() {
        return;
    }
    let mut random = Random::new(1);
    let mut layout = layout(&mut random, 3, &[[formats("q4")[0]; 3]]);
    layout.layers[0].top_k = 2;
    let mut trial = with_routers(2, layout, 3, 40);
    trial.resident = true;
    trial.check(&[40]).unwrap();
}

/// Keys and values in every format, in heads whose elements are turned with near ones and with far ones.
#[test]
fn formats_of_caches() {
    if super::phase().is_none() {
        return;
    }
    let heads = Heads { kv_heads: 1, queries_per_key: 1, dim: 128, rotary_dim: 16, gate: true };
    for kept in [KvFormat::F16, KvFormat::Q8, KvFormat::Tq4, KvFormat::K8v4] {
        attention_kept(1, heads, Operands::NORMS, kept, 3).check(&[3]).unwrap();
    }
}

/// Tokens by the tiles of a prompt, whose splits many threads join.
#[test]
fn tiles_of_tokens() {
    if super::phase().is_none() {
        return;
    }
    let heads = Heads { kv_heads: 1, queries_per_key: 2, dim: 64, rotary_dim: 16, gate: true };
    for kept in [KvFormat::F32, KvFormat::Tq4] {
        let mut trial = attention_kept(1, heads, Operands::NORMS, kept, 2);
        trial.deep_attention = Some(1);
        trial.check(&[2]).unwrap();
    }
}

/// A prompt of more positions than a workgroup takes at a time.
#[test]
fn long_prompt() {
    if super::phase().is_none() {
        return;
    }
    let heads = Heads { kv_heads: 1, queries_per_key: 1, dim: 32, rotary_dim: 16, gate: true };
    attention_kept(1, heads, Operands::NORMS, KvFormat::F32, 66).check(&[66]).unwrap();
}
