//! Attention of some tokens of a prompt, by the matrix units of a device and without them.

use flashflood_backends::gpu::Gpu;
use half::f16;

use super::{number, run};
use crate::compute::kernel::{Dispatch, Immediates, params};

const DIM: usize = 256;
/// Queries that share the one KV head.
const HEADS: usize = 5;
/// Two tiles, of which the second is not full.
const TOKENS: usize = 9;
const TILES: usize = (TOKENS * HEADS).div_ceil(32);
/// Runs of 32 that all rows see, one that some of them see, and a part of one.
const POSITIONS: usize = 150;
const PLAIN: &str = "attention_prefill_f16";
const BY_UNITS: &str = "attention_prefill_cooperative_f16";

/// Whether the kernel of matrix units finds what the other one finds. Says so if it does not.
pub(in crate::compute::gpu) fn works(gpu: &Gpu) -> bool {
    let works = is_right(gpu, BY_UNITS);
    if !works {
        tracing::warn!("{}: matrix units give wrong numbers for attention and are not used for it", gpu.info.name);
    }
    works
}

fn is_right(gpu: &Gpu, shader: &'static str) -> bool {
    let (expected, found) = (outputs(gpu, PLAIN), outputs(gpu, shader));
    expected.zip(found).is_some_and(|(expected, found)| are_near(&expected, &found))
}

/// To 1 in 50 of the largest: scores are up to 20, and f16 has 1 in 2,048 of what is multiplied for them.
fn are_near(expected: &[f32], found: &[f32]) -> bool {
    let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    largest > 0.1 && expected.iter().zip(found).all(|(e, f)| (e - f).abs() <= largest / 50.0)
}

fn parameters() -> Immediates {
    params! {
        tokens: TOKENS as u32,
        position: (POSITIONS - TOKENS) as u32,
        window_start: 0,
        window_rows: POSITIONS as u32,
        first_split: 0,
        splits: 1,
        tiles: TILES as u32,
        first_split_row: 0,
        reach: 0,
    }
}

/// `[queries, DIM]`, each divided by what its weights come to, and the logarithm of that.
fn outputs(gpu: &Gpu, shader: &'static str) -> Option<Vec<f32>> {
    let keys = halves(5, |position| 0.5 + position as f32 / POSITIONS as f32);
    let values = halves(7, |_| 1.0);
    // [tiles, DIM, 32 rows], then what is left: for each query DIM elements and 4
    let mut scratch: Vec<u32> = (0..TILES * DIM * 32).map(|i| (0.8 * number(i, 9)).to_bits()).collect();
    let left = scratch.len();
    scratch.resize(left + TOKENS * HEADS * (DIM + 4), 0);
    let constants = vec![("dim", DIM as f64), ("heads", HEADS as f64), ("kv_heads", 1.0)];
    let dispatch = Dispatch::new(0, 0, parameters(), [TILES as u32, 1, 1]);
    let written = [false, false, true];
    let [.., scratch] = run(gpu, shader, constants, &[&keys, &values, &scratch], written, &dispatch)?;
    let queries = scratch[left..].chunks_exact(DIM + 4).flat_map(|leaf| {
        let (top, total) = (leaf[0], leaf[1]);
        leaf[4..].iter().map(move |v| v / total).chain([(top + total.ln()) / 8.0])
    });
    Some(queries.collect())
}

/// `[positions, DIM]` in f16, each position as large as `size` says.
fn halves(seed: u32, size: impl Fn(usize) -> f32) -> Vec<u32> {
    let at = |i: usize| u32::from(f16::from_f32(size(i / DIM) * number(i, seed)).to_bits());
    (0..POSITIONS * DIM / 2).map(|i| at(2 * i) | at(2 * i + 1) << 16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::gpu::{Adapters, open};
    use crate::compute::shaders::taken::Taken;

    /// The kernel agrees with itself, and with nothing that is a little else. Where there are matrix units, they pass.
    #[test]
    fn right_is_told_from_wrong() {
        let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
        assert!(is_right(&gpu, PLAIN));
        let found = outputs(&gpu, PLAIN).expect("it runs");
        assert_eq!(found.len(), TOKENS * HEADS * (DIM + 1));
        for at in [0, found.len() / 2, found.len() - 1] {
            for wrong in [f32::NAN, found[at] + 0.1] {
                let mut other = found.clone();
                other[at] = wrong;
                assert!(!are_near(&found, &other), "{at}: {wrong}");
            }
        }
        assert_eq!(gpu.cooperative && works(&gpu), gpu.cooperative);
    }

    #[test]
    fn parameters_are_those_of_the_kernels() {
        for shader in [PLAIN, BY_UNITS] {
            assert_eq!(parameters().names(), Taken::by(shader).params, "{shader}");
        }
    }
}
