//! Attention of some tokens, by the matrix units of a device and without them.

use flashflood_backends::gpu::Gpu;
use flashflood_formats::CacheFormat;

use super::{number, run};
use crate::compute::kernel::{Dispatch, Immediates, params};
use crate::compute::op::Op;
use crate::compute::recording::{Recorded, Recording};
use crate::compute::shaders::cached::{suffix_of, with_suffix};

/// Queries that share the one KV head.
const HEADS: usize = 5;
/// A prompt of two tiles, of which the second is not full, and what fits the half of one that tokens of decode take.
const TOKENS: [usize; 2] = [9, 3];
/// Runs of 32 that all rows see, one that some of them see whole, and a part of one that no other rows see.
const POSITIONS: usize = 165;
const PLAIN: &str = "attention_prefill";
const BY_UNITS: &str = "attention_prefill_cooperative";

/// Whether a recording has attention for matrix units, and their kernels find what the others find. Says so if they do not.
pub(in crate::compute::gpu) fn works(gpu: &Gpu, recording: &Recording) -> bool {
    let mut kinds = Vec::new();
    for step in &recording.steps {
        let Recorded::Kernel { kernel: Op::Attention(attention), .. } = step else { continue };
        let kind = (attention.dim, attention.formats);
        if attention.fits_matrix_units() && !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let wrong = kinds.iter().find(|(dim, formats)| !is_right(gpu, BY_UNITS, *dim, *formats));
    if let Some((dim, [keys, values])) = wrong {
        tracing::warn!(
            "{}: matrix units give wrong numbers for attention (heads of {dim}, keys in {keys}, values in {values}) and are not used for it",
            gpu.info.name
        );
    }
    !kinds.is_empty() && wrong.is_none()
}

fn is_right(gpu: &Gpu, kernel: &str, dim: usize, formats: [CacheFormat; 2]) -> bool {
    TOKENS.into_iter().all(|tokens| {
        let of = |kernel| outputs(gpu, kernel, dim, formats, tokens);
        of(PLAIN).zip(of(kernel)).is_some_and(|(expected, found)| are_near(&expected, &found))
    })
}

/// To 1 in 50 of the largest: scores are up to 20, and f16 has 1 in 2,048 of what is multiplied for them.
fn are_near(expected: &[f32], found: &[f32]) -> bool {
    let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    largest > 0.1 && expected.iter().zip(found).all(|(e, f)| (e - f).abs() <= largest / 50.0)
}

fn tiles(tokens: usize) -> usize {
    (tokens * HEADS).div_ceil(32)
}

fn parameters(tokens: usize) -> Immediates {
    params! {
        tokens: tokens as u32,
        position: (POSITIONS - tokens) as u32,
        window_start: 0,
        window_rows: POSITIONS as u32,
        first_split: 0,
        splits: 1,
        tiles: tiles(tokens) as u32,
        first_split_row: 0,
        reach: 0,
    }
}

/// `[queries, dim]`, each divided by what its weights come to, and the logarithm of that.
fn outputs(gpu: &Gpu, kernel: &str, dim: usize, formats: [CacheFormat; 2], tokens: usize) -> Option<Vec<f32>> {
    let tiles = tiles(tokens);
    let shader = with_suffix(kernel, suffix_of(formats)?);
    let keys = stored(formats[0], dim, 5, |position| 0.5 + position as f32 / POSITIONS as f32);
    let values = stored(formats[1], dim, 7, |_| 1.0);
    // [tiles, dim, 32 rows], then what is left: for each query `dim` elements and 4
    let mut scratch: Vec<u32> = (0..tiles * dim * 32).map(|i| (0.8 * number(i, 9)).to_bits()).collect();
    let left = scratch.len();
    scratch.resize(left + tokens * HEADS * (dim + 4), 0);
    let mut constants = vec![("dim", dim as f64), ("heads", HEADS as f64), ("kv_heads", 1.0)];
    constants.extend((kernel == BY_UNITS && tokens * HEADS <= 16).then_some(("rows", 16.0)));
    let dispatch = Dispatch::new(0, 0, parameters(tokens), [tiles as u32, 1, 1]);
    let written = [false, false, true];
    let [.., scratch] = run(gpu, shader, constants, &[&keys, &values, &scratch], written, &dispatch)?;
    let queries = scratch[left..].chunks_exact(dim + 4).flat_map(|leaf| {
        let (top, total) = (leaf[0], leaf[1]);
        leaf[4..].iter().map(move |v| v / total).chain([(top + total.ln()) / 8.0])
    });
    Some(queries.collect())
}

/// Heads of all positions, each as large as `size` says.
fn stored(format: CacheFormat, dim: usize, seed: u32, size: impl Fn(usize) -> f32) -> Vec<u32> {
    let mut words = vec![0; POSITIONS * format.words(dim)];
    for (position, words) in words.chunks_exact_mut(format.words(dim)).enumerate() {
        let head: Vec<f32> = (0..dim).map(|i| size(position) * number(position * dim + i, seed)).collect();
        format.pack(&head, words);
    }
    words
}

#[cfg(test)]
mod tests {
    use flashflood_backends::gpu::MatrixUnits;

    use super::*;
    use crate::compute::KvFormat;
    use crate::compute::gpu::{Adapters, open};
    use crate::compute::shaders::taken::Taken;

    /// The kernel agrees with itself, and with nothing that is a little else. Where there are matrix units, they pass.
    #[test]
    fn right_is_told_from_wrong() {
        let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
        for (dim, format) in [64, 128, 192, 256, 128].into_iter().zip(KvFormat::ALL) {
            assert!(is_right(&gpu, PLAIN, dim, format.of_heads(dim)), "{dim}, {format}");
        }
        let (dim, formats) = (64, KvFormat::F16.of_heads(64));
        let found = outputs(&gpu, PLAIN, dim, formats, 9).expect("it runs");
        assert_eq!(found.len(), 9 * HEADS * (dim + 1));
        for at in [0, found.len() / 2, found.len() - 1] {
            for wrong in [f32::NAN, found[at] + 0.1] {
                let mut other = found.clone();
                other[at] = wrong;
                assert!(!are_near(&found, &other), "{at}: {wrong}");
            }
        }
        let mut by_units = KvFormat::ALL.into_iter().filter(|format| *format != KvFormat::F32);
        let has_units = gpu.matrix_units == Some(MatrixUnits::By16);
        assert!(!has_units || by_units.all(|format| is_right(&gpu, BY_UNITS, dim, format.of_heads(dim))));
    }

    #[test]
    fn parameters_are_those_of_the_kernels() {
        for kernel in [PLAIN, BY_UNITS] {
            assert_eq!(parameters(1).names(), Taken::by(with_suffix(kernel, "_f16")).params, "{kernel}");
        }
    }
}
