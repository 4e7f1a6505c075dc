//! One layer of a recording by itself, without its routed experts: a pass over a long text that reads each layer once takes
//! all tokens through a layer before the next one begins.

use std::collections::HashSet;
use std::sync::Arc;

use super::rows_of;
use crate::compute::cpu::CpuExecutor;
use crate::compute::op::Op;
use crate::compute::recording::{Recorded, Recording, Rows, View};
use crate::compute::step::{ExecuteError, LogitRows, Step};

/// A layer of a plain recording on the CPU.
pub(crate) struct LayerRunner {
    runner: CpuExecutor,
    operations: usize,
    /// The residual stream.
    x: View,
    routed: Option<RoutedViews>,
}

#[derive(Clone, Copy)]
struct RoutedViews {
    inputs: View,
    ids: View,
    weights: View,
}

/// What the routed experts of a layer get of some tokens.
pub(crate) struct Routed {
    /// `[tokens, hidden]`
    pub(crate) inputs: Vec<f32>,
    /// `[tokens, top_k]`
    pub(crate) ids: Vec<u32>,
    /// `[tokens, top_k]`
    pub(crate) weights: Vec<f32>,
}

impl LayerRunner {
    /// Layer `layer` of `recording`, for sequences of at most `context` tokens, `most_tokens` at a time. `None` for a
    /// recording that no tokens go into.
    pub(crate) fn new(recording: &Recording, layer: usize, context: usize, most_tokens: usize) -> Option<LayerRunner> {
        let x = recording.input?;
        let (mut done, mut steps, mut used) = (0, Vec::new(), HashSet::from([x.tensor]));
        let (mut inputs, mut chosen) = (None, None);
        for recorded in &recording.steps {
            match recorded {
                Recorded::LayerDone(layers) => done = *layers,
                _ if done != layer => {}
                // nothing is ever written to its output: what is added of it is zero
                Recorded::Experts(op) => inputs = Some(op.x.view()),
                Recorded::Route(_) => {}
                Recorded::Kernel { label, kernel } => {
                    if let Op::RouterTopK(router) = kernel {
                        chosen = Some((router.ids, router.weights));
                    }
                    let mut kernel = kernel.clone();
                    used.extend(kernel.operands().iter().map(|(_, view)| view.tensor));
                    steps.push(Recorded::Kernel { label: label.clone(), kernel });
                }
            }
        }
        let operations = steps.len();
        let mut recording = Recording { max_tokens: most_tokens, steps, logits: None, ..recording.clone() };
        for (index, spec) in recording.tensors.iter_mut().enumerate() {
            if !used.iter().any(|tensor| tensor.0 == index) {
                spec.rows = Rows::Fixed(0);
            }
        }
        let routed = inputs.zip(chosen).map(|(inputs, (ids, weights))| RoutedViews { inputs, ids, weights });
        Some(LayerRunner { runner: CpuExecutor::new(Arc::new(recording), context, None), operations, x, routed })
    }

    /// Forgets the tokens so far.
    pub(crate) fn begin_sequence(&mut self) -> Result<(), ExecuteError> {
        self.runner.reset()
    }

    /// Takes tokens of a sequence, the first at `position`, through the layer: `x` `[tokens, hidden]` is the residual stream
    /// before and then behind it, without what routed experts add. `None` for a layer that has none.
    pub(crate) fn run(&mut self, position: usize, x: &mut [f32], rope: &[f32]) -> Result<Option<Routed>, ExecuteError> {
        let View { width, stride, .. } = self.x;
        let tokens = x.len() / width;
        let step = Step::prefill(tokens, position, LogitRows::None);
        let padded: Vec<f32> = x
            .chunks_exact(width)
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, stride - width)))
            .collect();
        self.runner.begin(step, &padded, rope)?;
        for index in 0..self.operations {
            self.runner.run_operation(index, &step, None)?;
        }
        let read = |view: View| rows_of(&self.runner.read(view.tensor)[..tokens * view.stride], view);
        x.iter_mut().zip(read(self.x)).for_each(|(x, behind)| *x = behind);
        Ok(self.routed.map(|routed| Routed {
            inputs: read(routed.inputs).collect(),
            ids: read(routed.ids).map(f32::to_bits).collect(),
            weights: read(routed.weights).collect(),
        }))
    }
}
