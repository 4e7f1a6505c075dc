//! Neighbours that one kernel does together: on a fast GPU a dispatch costs a wait for the one before, whatever it does.

use crate::compute::op::Op;
use crate::compute::ops::{Combine, CombineNorm, ExpertDown, RmsNorm, RouterTopK};
use crate::compute::recording::{Recorded, Recording};

/// The SwiGLU of the shared expert with the router's choice behind it, and what combines the experts with the norm behind it.
pub(super) fn neighbours(recording: &mut Recording) {
    let mut steps: Vec<Recorded> = Vec::with_capacity(recording.steps.len());
    for recorded in std::mem::take(&mut recording.steps) {
        let fused = match &recorded {
            Recorded::Kernel { label, kernel: Op::RouterTopK(choice) } => with_swiglu(&mut steps, label, choice),
            Recorded::Kernel { kernel: Op::RmsNorm(norm), .. } => into_combine(&mut steps, norm),
            _ => false,
        };
        if !fused {
            steps.push(recorded);
        }
    }
    recording.steps = steps;
}

/// Lets what combines the experts make their last product too, where that leaves half a norm.
pub(super) fn last_products(recording: &mut Recording) {
    for at in 0..recording.steps.len() {
        let (before, rest) = recording.steps.split_at_mut(at);
        let Recorded::Kernel { kernel: Op::CombineNorm(combine), .. } = &mut rest[0] else { continue };
        let experts = before.iter_mut().rev().find_map(|recorded| match recorded {
            Recorded::Experts(op) => Some(op),
            _ => None,
        });
        let Some(op) = experts.filter(|op| op.out == combine.routed && combine.unscaled.is_some()) else { continue };
        let Some(hidden) = op.hidden.packed() else { continue };
        op.combined = true;
        combine.down = Some(ExpertDown { layer: op.layer, place: op.slot.down, hidden });
    }
}

/// Puts `choice` in the place of a SwiGLU that is last.
fn with_swiglu(steps: &mut [Recorded], label: &str, choice: &RouterTopK) -> bool {
    let Some(last) = steps.last_mut() else { return false };
    let Recorded::Kernel { kernel: Op::Swiglu(swiglu), .. } = last else { return false };
    if choice.shared.is_some() {
        return false;
    }
    let shared = Some((swiglu.gate_up, swiglu.out));
    *last = Recorded::Kernel { label: label.to_owned(), kernel: RouterTopK { shared, ..choice.clone() }.into() };
    true
}

/// Makes a norm part of what wrote its input last, where that combines experts. Ends of layers may lie between the two.
fn into_combine(steps: &mut [Recorded], norm: &RmsNorm) -> bool {
    let last = steps.iter_mut().rev().find(|recorded| !matches!(recorded, Recorded::LayerDone(_)));
    let Some(Recorded::Kernel { kernel, .. }) = last else { return false };
    let Op::Combine(combine) = &*kernel else { return false };
    if combine.x != norm.x || norm.out.offset != 0 || norm.packed.is_some() {
        return false;
    }
    let Combine { x, routed, weights, shared } = combine.clone();
    let (weight, out, eps) = (norm.weight, norm.out, norm.eps);
    *kernel =
        CombineNorm { x, routed, weights, shared, norm: weight, out, packed: None, eps, unscaled: None, down: None }
            .into();
    true
}
