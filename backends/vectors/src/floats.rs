//! Operations on f32: what of a token is no product of weights, and products with activations as they are.
//!
//! A sum over columns is 32 running sums, column by column modulo 32, halved until one is left. Sums over rows or positions
//! are added from the first to the last.

#[cfg(target_arch = "aarch64")]
use crate::arm;
#[cfg(target_arch = "x86_64")]
use crate::x86;
use crate::{Instructions, dispatch, portable};

/// One token of the gated delta rule for one head: `state = decay * state`, then `state += k * beta * (v - k * state)`,
/// and what `q` reads of it then.
#[derive(Clone, Copy, Debug)]
pub struct DeltaStep<'a> {
    /// A key for each row of the state, scaled.
    pub k: &'a [f32],
    /// A query for each row, scaled.
    pub q: &'a [f32],
    /// A value for each column.
    pub v: &'a [f32],
    /// What the state is multiplied with.
    pub decay: f32,
    /// How much is corrected.
    pub beta: f32,
}

/// Attention of one query of one head to some positions.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// The query.
    pub q: &'a [f32],
    /// Keys from position 0 on, `stride` elements apart.
    pub keys: &'a [f32],
    /// Values, likewise.
    pub values: &'a [f32],
    /// From one position to the next.
    pub stride: usize,
    /// The first position that is seen.
    pub first: usize,
    /// The first after it that is not.
    pub end: usize,
    /// What scores are multiplied with.
    pub scale: f32,
}

/// What a query has seen: its largest score, and the sum of the weights.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub(crate) top: f32,
    pub(crate) total: f32,
}

impl Seen {
    /// Nothing but the sink: a score that has no value.
    pub fn begin(sink: Option<f32>) -> Seen {
        let (top, total) = sink.map_or((f32::NEG_INFINITY, 0.0), |sink| (sink, 1.0));
        Seen { top, total }
    }

    /// Divides what all positions left, row after row, by the sums of their weights.
    pub fn end(seen: &[Seen], out: &mut [f32]) {
        let dim = out.len() / seen.len().max(1);
        for (out, Seen { total, .. }) in out.chunks_exact_mut(dim.max(1)).zip(seen) {
            out.iter_mut().for_each(|out| *out /= total);
        }
    }
}

/// What shapes must be, is checked by slices: a wrong one panics, and callers have checked them.
impl Instructions {
    /// The sum of `a * b`.
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        dispatch!(self, dot(a, &b[..a.len()]))
    }

    /// `[rows, tokens]`: rows of `cols` weights, a multiple of 32, times each of `x`.
    pub fn product_of_rows(self, weights: &[f32], cols: usize, x: &[&[f32]], out: &mut [f32]) {
        assert_eq!(out.len() * cols, x.len() * weights.len(), "a result for each row and token");
        assert!(cols.is_multiple_of(32) && cols > 0, "whole blocks of columns");
        if !x.is_empty() {
            dispatch!(self, product_of_rows(weights, cols, x, out));
        }
    }

    /// Each code times the scale of its group, plus its bias. A group is a multiple of 32.
    pub fn scale_codes(self, codes: &[u8], group: usize, scales: &[[f32; 2]], out: &mut [f32]) {
        assert!(group.is_multiple_of(32) && group > 0, "whole blocks of columns");
        dispatch!(self, scale_codes(codes, group, scales, out));
    }

    /// Each number of 8 bits (E4M3; what would be NaN is 480) times the scale of its 16 columns, the first of each pair.
    pub fn scale_small_floats(self, numbers: &[u8], scales: &[[f32; 2]], out: &mut [f32]) {
        dispatch!(self, scale_small_floats(numbers, scales, out));
    }

    /// `e^x` of each, within 2 units in the last place; at most that of 88, at least that of -87.3.
    pub fn exp(self, x: &mut [f32]) {
        dispatch!(self, exp_all(x));
    }

    /// `silu(gate) * up`.
    pub fn swiglu(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        dispatch!(self, swiglu(&gate[..out.len()], &up[..out.len()], out));
    }

    /// `out *= sigmoid(gate)`.
    pub fn times_sigmoid(self, out: &mut [f32], gate: &[f32]) {
        dispatch!(self, times_sigmoid(out, &gate[..out.len()]));
    }

    /// `x / sqrt(mean(x²) + eps) * weight * silu(gate)`.
    pub fn gated_norm(self, x: &mut [f32], eps: f32, weight: &[f32], gate: &[f32]) {
        dispatch!(self, gated_norm(x, eps, &weight[..x.len()], &gate[..x.len()]));
    }

    /// `silu` of the sum of each tap's weights times its inputs, tap after tap.
    pub fn convolve(self, weights: &[&[f32]], inputs: &[&[f32]], out: &mut [f32]) {
        dispatch!(self, convolve(weights, inputs, out));
    }

    /// Changes the state, whose rows are `stride` elements apart, by one token after the other, and writes what the query of
    /// each reads of it, row after row. Tokens together have the bits that they have one by one, and are faster: some columns of
    /// the state stay near for all of them.
    pub fn delta_steps(self, steps: &[DeltaStep<'_>], stride: usize, state: &mut [f32], out: &mut [f32]) {
        dispatch!(self, delta_steps(steps, stride, state, out));
    }

    /// Of each query, row after row, the values of its positions, weighted by the softmax of their scores: added to `out`, zeros
    /// at first, and divided by [`Seen::end`] at last. Positions are weighed by 16, those of a multiple of 16 and the next
    /// ones, so that the bits of a query depend neither on the others nor on how the positions were cut, where each piece
    /// begins at a multiple of 16. Queries that see the same keys are faster together.
    pub fn attend(self, queries: &[Attend<'_>], seen: &mut [Seen], out: &mut [f32]) {
        assert_eq!(queries.len(), seen.len(), "what each query has seen");
        dispatch!(self, attend(queries, seen, out));
    }
}
