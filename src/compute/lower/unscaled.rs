//! Norms in two halves, where what writes a row takes the first and all that read it take the second: a kernel, and a wait
//! for it, less.

use crate::compute::op::{Op, Use};
use crate::compute::ops::{MatmulNorm, RmsNorm, Unscaled};
use crate::compute::recording::{Recorded, Recording, TensorId, View};

/// Takes norms apart that follow a sum onto the residual stream. What reads their outputs scales, or is rounded to 8 bits and
/// read by what scales; a norm that anything else reads stays whole.
pub(super) fn norms(recording: &mut Recording) {
    let mut steps = std::mem::take(&mut recording.steps);
    let mut at = 0;
    while at < steps.len() {
        let norm = norm_at(&steps, at);
        at += 1;
        let Some((norm, is_apart)) = norm else { continue };
        let written = [Some(norm.out.tensor), norm.packed.map(|packed| packed.words.tensor)];
        // behind the norm, and behind the operation of its own that it may be
        let behind = at + usize::from(is_apart);
        let Some(readers) = readers(&mut steps[behind..], written.into_iter().flatten().collect()) else { continue };
        let Some(unscaled) = Unscaled::new(recording, &norm.out, norm.eps) else { continue };
        for reader in readers {
            match &mut steps[behind + reader] {
                Recorded::Kernel { kernel: Op::Matmul(product), .. } => product.unscaled = Some(unscaled),
                Recorded::Experts(experts) => experts.unscaled = Some(unscaled),
                _ => {}
            }
        }
        let Recorded::Kernel { kernel, .. } = &mut steps[at - 1] else { continue };
        match kernel {
            Op::CombineNorm(combine) => combine.unscaled = Some(unscaled),
            Op::Matmul(product) => {
                let product = product.clone();
                *kernel = MatmulNorm { product, norm, unscaled }.into();
                steps.remove(at);
            }
            _ => {}
        }
    }
    recording.steps = steps;
}

/// The norm of what step `at` adds to the residual stream, and whether it is an operation of its own: the next one.
fn norm_at(steps: &[Recorded], at: usize) -> Option<(RmsNorm, bool)> {
    match &steps[at] {
        Recorded::Kernel { kernel: Op::CombineNorm(combine), .. } => Some((combine.as_norm(), false)),
        Recorded::Kernel { kernel: Op::Matmul(product), .. } if product.accumulate && product.unscaled.is_none() => {
            match steps.get(at + 1)? {
                Recorded::Kernel { kernel: Op::RmsNorm(norm), .. } if norm.x == product.out => {
                    Some((norm.clone(), true))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The operations that read `unscaled`, or what is made of it in 8 bits, until it is written again; `None` where one of them
/// cannot scale what it makes of it.
fn readers(steps: &mut [Recorded], mut unscaled: Vec<TensorId>) -> Option<Vec<usize>> {
    let mut readers = Vec::new();
    for (at, step) in steps.iter_mut().enumerate() {
        let touched: Vec<(Use, View)> = step.operands().into_iter().map(|(how, view)| (how, *view)).collect();
        let touches = |what: Use| touched.iter().any(|(how, view)| *how == what && unscaled.contains(&view.tensor));
        if touches(Use::Update) {
            return None;
        }
        let made = match step {
            _ if !touches(Use::Read) => None,
            Recorded::Kernel { kernel: Op::Matmul(product), .. } if unscaled.contains(&product.x.view().tensor) => None,
            Recorded::Experts(experts) if experts.apart.is_none() => None,
            Recorded::Kernel { kernel: Op::Quantise(quantise), .. } => Some(quantise.out.words.tensor),
            _ => return None,
        };
        if touches(Use::Read) && made.is_none() {
            readers.push(at);
        }
        unscaled.retain(|tensor| !touched.iter().any(|(how, view)| *how == Use::Write && view.tensor == *tensor));
        unscaled.extend(made);
        if unscaled.is_empty() {
            break;
        }
    }
    Some(readers)
}
