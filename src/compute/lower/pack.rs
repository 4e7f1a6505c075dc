//! Activations in 8 bits, where weights can be multiplied with those.
//!
//! What a kernel writes for such products alone, it writes in 8 bits and not in f32. A norm, whose output others read too,
//! writes both, for the order of columns that most of the rows behind it want. Whatever else is wanted is packed by a
//! kernel of its own.

use super::plain;
use crate::compute::op::{Op, Use};
use crate::compute::ops::{Input, Matmul, Quantise, Quantised};
use crate::compute::recording::{Recorded, Recording, TensorId, View};
use crate::weights::WeightFormat;

/// Who reads what an operation writes, until it is written again.
#[derive(Default)]
struct Readers {
    /// (order of columns that the weights want, rows of them), of products that take 8 bits.
    packed: Vec<(usize, usize)>,
    /// Whether anything reads it as it is.
    plain: bool,
}

impl Readers {
    /// The order of columns that most rows want; `None` when nobody takes 8 bits.
    fn most_wanted(&self) -> Option<usize> {
        let rows =
            |order: usize| self.packed.iter().filter(|(of, _)| *of == order).map(|(_, rows)| rows).sum::<usize>();
        // of equals the first
        self.packed.iter().map(|(order, _)| *order).rev().max_by_key(|order| rows(*order))
    }

    /// The one order that everybody wants, where nobody wants anything else.
    fn only_wanted(&self) -> Option<usize> {
        let (first, _) = *self.packed.first()?;
        (!self.plain && self.packed.iter().all(|(order, _)| *order == first)).then_some(first)
    }
}

/// An operation of the plain recording with the tensors that it touches: told once, as every writer looks at all behind it.
type Step<'a> = (&'a Recorded, &'a [(Use, TensorId)]);

/// Packs what products take in 8 bits.
pub(super) fn activations(recording: &mut Recording) {
    let mut plain_steps = recording.steps.clone();
    let touched: Vec<Vec<(Use, TensorId)>> = plain_steps.iter_mut().map(touched).collect();
    let plain_steps: Vec<Step<'_>> = plain_steps.iter().zip(touched.iter().map(Vec::as_slice)).collect();
    // (what it is of, in 8 bits), as long as it is not written again
    let mut known: Vec<(View, Quantised)> = Vec::new();
    let mut steps = Vec::with_capacity(plain_steps.len());
    for (at, &(plain_step, _)) in plain_steps.iter().enumerate() {
        let mut recorded = plain_step.clone();
        for (which, taken) in taken_by(&recorded, recording).into_iter().enumerate() {
            let Some((view, order)) = taken else { continue };
            let packed = packed_for(view, order, &mut known, recording, &mut steps);
            match (&mut recorded, which) {
                (Recorded::Kernel { kernel: Op::Matmul(product), .. }, _) => product.x = packed.into(),
                (Recorded::Experts(experts), GATE) => experts.x = packed.into(),
                (Recorded::Experts(experts), _) => {
                    experts.apart.iter_mut().for_each(|apart| apart.x = packed.into());
                }
                _ => {}
            }
        }
        for tensor in written(&mut recorded) {
            known.retain(|(view, _)| view.tensor != tensor);
        }
        pack_output(&mut recorded, &plain_steps[at + 1..], recording, &mut known);
        steps.push(recorded);
    }
    recording.steps = steps;
}

/// `view` in 8 bits, by an operation of its own unless it is known.
fn packed_for(
    view: View,
    order: usize,
    known: &mut Vec<(View, Quantised)>,
    recording: &mut Recording,
    steps: &mut Vec<Recorded>,
) -> Quantised {
    if let Some((_, packed)) = known.iter().find(|(of, packed)| *of == view && packed.interleave == order) {
        return *packed;
    }
    let label = recording.spec(view.tensor).label.clone();
    let out = Quantised::tensor(recording, &label, view.rows_per_token, view.width, order);
    steps.push(Recorded::Kernel { label: format!("{label}.int8"), kernel: Quantise { x: view, out }.into() });
    known.push((view, out));
    out
}

/// Lets an operation write its output in 8 bits where that is wanted.
fn pack_output(
    recorded: &mut Recorded,
    behind: &[Step<'_>],
    recording: &mut Recording,
    known: &mut Vec<(View, Quantised)>,
) {
    match recorded {
        Recorded::Kernel { kernel: Op::RmsNorm(norm), .. } => {
            norm.packed = beside(norm.out, behind, recording, known);
        }
        Recorded::Kernel { kernel: Op::CombineNorm(norm), .. } => {
            norm.packed = beside(norm.out, behind, recording, known);
        }
        Recorded::Kernel { kernel: Op::Attention(op), .. } if op.dim.is_multiple_of(32) => {
            instead(&mut op.out, behind, recording, known);
        }
        Recorded::Kernel { kernel: Op::DeltaNet(op), .. } if op.shape.value_dim.is_multiple_of(32) => {
            instead(&mut op.out, behind, recording, known);
        }
        Recorded::Kernel { kernel: Op::Swiglu(op), .. } if op.out.cols().is_multiple_of(32) => {
            instead(&mut op.out, behind, recording, known);
        }
        Recorded::Kernel { kernel: Op::RouterTopK(op), .. } => {
            if let Some((_, hidden)) = op.shared.as_mut().filter(|(_, hidden)| hidden.cols().is_multiple_of(32)) {
                instead(hidden, behind, recording, known);
            }
        }
        Recorded::Experts(op) => {
            if let (Some(hidden), Some(order)) = (plain(&op.hidden), op.slot.down.format.interleave()) {
                let label = recording.spec(hidden.tensor).label.clone();
                op.hidden = Quantised::tensor(recording, &label, hidden.rows_per_token, hidden.width, order).into();
            }
        }
        _ => {}
    }
}

/// 8 bits beside f32, where somebody behind takes them.
fn beside(
    out: View,
    behind: &[Step<'_>],
    recording: &mut Recording,
    known: &mut Vec<(View, Quantised)>,
) -> Option<Quantised> {
    let order = readers(out, behind, recording).most_wanted().filter(|_| out.width.is_multiple_of(32))?;
    let label = recording.spec(out.tensor).label.clone();
    let packed = Quantised::tensor(recording, &label, out.rows_per_token, out.width, order);
    known.push((out, packed));
    Some(packed)
}

/// 8 bits and no f32, where all behind take them.
fn instead(out: &mut Input, behind: &[Step<'_>], recording: &mut Recording, known: &mut Vec<(View, Quantised)>) {
    let Some(view) = plain(out) else { return };
    let Some(order) = readers(view, behind, recording).only_wanted() else { return };
    let label = recording.spec(view.tensor).label.clone();
    let packed = Quantised::tensor(recording, &label, view.rows_per_token, view.width, order);
    known.push((view, packed));
    *out = packed.into();
}

/// Of what experts take: for gate, or gate and up where these are one matrix. What is behind it is for up.
const GATE: usize = 0;

/// What an operation takes in 8 bits, and in which order of columns.
fn taken_by(recorded: &Recorded, recording: &Recording) -> [Option<(View, usize)>; 2] {
    let taken = |x: &Input, format: WeightFormat| Some((plain(x)?, format.interleave()?));
    match recorded {
        Recorded::Kernel { kernel: Op::Matmul(Matmul { x, matrix, exact: false, .. }), .. } => {
            [taken(x, recording.matrices[matrix.0].format), None]
        }
        Recorded::Experts(op) => {
            let of_up = op.apart.and_then(|apart| taken(&apart.x, op.slot.up.format));
            [taken(&op.x, op.slot.gate.format), of_up]
        }
        _ => [None, None],
    }
}

/// Rows of the weights that an operation multiplies with each of what it takes.
fn weight_rows(recorded: &Recorded) -> usize {
    match recorded {
        Recorded::Kernel { kernel: Op::Matmul(product), .. } => product.out.width,
        Recorded::Experts(op) => op.slot.gate_up().unwrap_or(op.slot.gate).rows,
        _ => 0,
    }
}

fn readers(view: View, behind: &[Step<'_>], recording: &Recording) -> Readers {
    let mut readers = Readers::default();
    for &(recorded, touched) in behind {
        let uses = |what: Use| touched.iter().filter(|touched| **touched == (what, view.tensor)).count();
        let mut plain = uses(Use::Read);
        for (_, order) in taken_by(recorded, recording).into_iter().flatten().filter(|(taken, _)| *taken == view) {
            readers.packed.push((order, weight_rows(recorded)));
            plain = plain.saturating_sub(1);
        }
        readers.plain |= plain > 0;
        if uses(Use::Write) > 0 {
            break;
        }
    }
    readers
}

/// The tensors of an operation, and what it does with them.
fn touched(recorded: &mut Recorded) -> Vec<(Use, TensorId)> {
    recorded.operands().into_iter().map(|(how, view)| (how, view.tensor)).collect()
}

fn written(recorded: &mut Recorded) -> Vec<TensorId> {
    touched(recorded).into_iter().filter(|(how, _)| *how != Use::Read).map(|(_, tensor)| tensor).collect()
}
