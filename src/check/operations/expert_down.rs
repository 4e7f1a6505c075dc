//! What combines a token's experts together with their last product. A recording of a check does not come to it by itself:
//! its experts are read, and that kernel takes those of layers that are all in memory.

use super::{KernelRows, Operation, Pair};
use crate::check::{CheckError, CheckOptions, Watch};
use crate::compute::gpu::Written;
use crate::compute::ops::CombineNorm;
use crate::compute::{ExecuteError, Op, Phase, Recorded, Step};

/// The operation, where it can be run in this way.
fn with_down<'a>(recorded: &'a Recorded, step: &Step) -> Option<&'a CombineNorm> {
    match recorded {
        Recorded::Kernel { kernel: Op::CombineNorm(op), .. } if step.phase == Phase::Decode => Some(op),
        _ => None,
    }
    .filter(|op| op.down.is_some())
}

impl Pair<'_> {
    /// The residual stream that it adds to, before it does.
    pub(super) fn stream_before(&mut self, recorded: &Recorded, step: &Step) -> Result<Option<Vec<f32>>, ExecuteError> {
        with_down(recorded, step).map(|op| self.gpu.read(op.x.tensor)).transpose()
    }

    /// Compares it, from the residual stream `before` on, with what the CPU has made.
    pub(super) fn compare_with_down(
        &mut self,
        operation: Operation<'_>,
        before: &[f32],
        written: &Written,
        options: &CheckOptions,
        watch: &mut Watch<'_>,
        rows: &mut KernelRows,
    ) -> Result<(), CheckError> {
        let Some(op) = with_down(operation.recorded, &operation.step) else { return Ok(()) };
        let Some(down) = op.down else { return Ok(()) };
        let chosen = self.recording.steps.iter().find_map(|recorded| match recorded {
            Recorded::Route(route) if route.layer == down.layer => Some(route.ids),
            _ => None,
        });
        let Some(ids) = chosen else { return Ok(()) };
        let ids: Vec<u32> = self.cpu.read(ids.tensor)[..ids.width].iter().map(|id| id.to_bits()).collect();
        if !self.gpu.take_from_slab(down.layer, &ids, &mut self.gpu_store)? {
            return Ok(());
        }
        self.gpu.write(op.x.tensor, before);
        let shaders = self.gpu.shaders_of(operation.index, &operation.step);
        let outcome = match shaders.iter().any(|shader| options.wants(shader)) {
            true => {
                watch.at(&self.subject.name, shaders[0])?;
                self.compare_operation(&Operation { shaders, ..operation }, written, options, rows)
            }
            false => Ok(()),
        };
        self.gpu.take_what_is_read();
        outcome
    }
}
