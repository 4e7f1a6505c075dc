//! The delta rule's state through two chunks, by the matrix units of a device and without them.

use flashflood_backends::gpu::Gpu;

use super::{number, run};
use crate::compute::kernel::{Dispatch, params};

/// Tokens: two chunks.
const ROWS: usize = 64;
const KEY_DIM: usize = 128;
/// Two workgroups.
const VALUE_DIM: usize = 32;
const PLAIN: &str = "delta_net_chunks";
const BY_UNITS: &str = "delta_net_chunks_cooperative";

/// Whether the kernel of matrix units leaves what the other one leaves. Says so if it does not.
pub(in crate::compute::gpu) fn works(gpu: &Gpu) -> bool {
    let works = is_right(gpu, BY_UNITS);
    if !works {
        tracing::warn!("{}: matrix units give wrong numbers for the delta rule and are not used for it", gpu.info.name);
    }
    works
}

/// Whether a shader leaves the outputs and the state that [`PLAIN`] leaves: to 1 in 100 of the largest, f16 has 1 in 2,048,
/// and 128 products are added up.
fn is_right(gpu: &Gpu, shader: &'static str) -> bool {
    let (expected, found) = (left_by(gpu, PLAIN), left_by(gpu, shader));
    expected.zip(found).is_some_and(|(expected, found)| are_near(&expected, &found))
}

fn are_near(expected: &[Vec<f32>; 2], found: &[Vec<f32>; 2]) -> bool {
    expected.iter().zip(found).all(|(expected, found)| {
        let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        largest > 0.1 && expected.iter().zip(found).all(|(e, f)| (e - f).abs() <= largest / 100.0)
    })
}

/// Outputs `[ROWS, VALUE_DIM]`, and the state `[KEY_DIM, VALUE_DIM]`: what a kernel makes of a scratch and a state that are
/// the same every time.
fn left_by(gpu: &Gpu, shader: &'static str) -> Option<[Vec<f32>; 2]> {
    let scratch: Vec<u32> = scratch().into_iter().map(f32::to_bits).collect();
    let state: Vec<u32> = (0..KEY_DIM * VALUE_DIM).map(|i| (0.5 * number(i, 3)).to_bits()).collect();
    let mut constants = vec![("key_dim", KEY_DIM as f64), ("side_by_side", 1.0), ("value4", (VALUE_DIM / 4) as f64)];
    if shader == PLAIN {
        constants.extend([("value_dim", VALUE_DIM as f64), ("columns4", 4.0)]);
    }
    let immediates = params! { rows: ROWS as u32, key_heads: 1, value_heads: 1, state_stride: VALUE_DIM as u32 };
    let dispatch = Dispatch::new(0, 0, immediates, [1, VALUE_DIM as u32 / 16, 1]);
    let [scratch, state] = run(gpu, shader, constants, &[&scratch, &state], [true; 2], &dispatch)?;
    // where the values were
    let outputs = scratch[3 * ROWS * KEY_DIM..][..ROWS * VALUE_DIM].to_vec();
    Some([outputs, state])
}

/// As `wgsl/shared/delta_net_scratch.wgsl` says.
fn scratch() -> Vec<f32> {
    // elements of keys and queries of length 1, about
    let unit = (3.0 / KEY_DIM as f32).sqrt();
    let of_token = |seed: u32| move |token: usize, d: usize| unit * number(token * KEY_DIM + d, seed);
    let (query, key) = (of_token(5), of_token(7));
    let mut all = Vec::new();
    let turned = |of: &dyn Fn(usize, usize) -> f32, all: &mut Vec<f32>| {
        for (first, quad) in (0..ROWS).step_by(32).flat_map(|first| (0..KEY_DIM / 4).map(move |quad| (first, quad))) {
            all.extend((0..128).map(|n| of(first + n / 4, 4 * quad + n % 4)));
        }
    };
    turned(&query, &mut all);
    turned(&key, &mut all);
    all.extend((0..ROWS * KEY_DIM).map(|n| key(n / KEY_DIM, n % KEY_DIM)));
    all.extend((0..ROWS * VALUE_DIM).map(|n| number(n, 11)));
    // what ties tokens to those before them, in both halves
    for n in 0..2 * ROWS * 32 {
        let (quad, token, c) = (n / 128 % 8, n / 4 % 32, n % 4);
        let before = 4 * quad + c;
        all.push(match before.cmp(&token) {
            std::cmp::Ordering::Less => 0.2 * number(n, 13),
            std::cmp::Ordering::Equal => 0.7,
            std::cmp::Ordering::Greater => 0.0,
        });
    }
    // exponentials of decays, since the chunk's first token and to its last
    all.extend((0..ROWS).flat_map(|t| [1.0 - 0.02 * (t % 32) as f32, 0.4 + 0.018 * (t % 32) as f32, 0.0, 0.0]));
    all
}

#[cfg(test)]
mod tests {
    use flashflood_backends::gpu::MatrixUnits;

    use super::*;
    use crate::compute::gpu::{Adapters, open};
    use crate::compute::shaders::taken::Taken;

    /// The kernel agrees with itself, and with nothing that is a little else. Where there are matrix units, they pass.
    #[test]
    fn right_is_told_from_wrong() {
        let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
        assert!(is_right(&gpu, PLAIN));
        let left = left_by(&gpu, PLAIN).expect("it runs");
        for which in 0..2 {
            for at in [0, left[which].len() / 2, left[which].len() - 1] {
                for wrong in [f32::NAN, left[which][at] + 0.2] {
                    let mut other = left.clone();
                    other[which][at] = wrong;
                    assert!(!are_near(&left, &other), "{which}, {at}: {wrong}");
                }
            }
        }
        let nothing = [vec![0.0; ROWS * VALUE_DIM], vec![0.0; KEY_DIM * VALUE_DIM]];
        assert!(!are_near(&nothing, &nothing), "nothing was computed");
        assert!(gpu.matrix_units != Some(MatrixUnits::By16) || works(&gpu));
    }

    #[test]
    fn parameters_are_those_of_the_kernels() {
        let given = params! { rows: 0, key_heads: 0, value_heads: 0, state_stride: 0 };
        for shader in [PLAIN, BY_UNITS] {
            assert_eq!(given.names(), Taken::by(shader).params, "{shader}");
        }
    }
}
