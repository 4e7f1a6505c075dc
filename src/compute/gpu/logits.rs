//! What the host reads of logits: the largest, and sums of runs.

use super::device::GpuDevice;
use crate::compute::ops::LogitsTopK;
use crate::compute::step::{ExecuteError, LogitsSummary, RunTotal};

impl GpuDevice {
    /// The largest of a row of logits, and what its runs add up to.
    pub(super) fn summary_of_device(&mut self, op: LogitsTopK) -> Result<LogitsSummary, ExecuteError> {
        let Some(stages) = &self.ready.top_k else { return Ok(LogitsSummary::default()) };
        let top_k = op.top_k.min(op.vocab).min(LogitsTopK::MOST);
        let (dispatches, scratch) = LogitsTopK { top_k, ..op }.dispatches();
        self.encoding.dispatch(&self.gpu.device, None, stages, &dispatches);
        let (top, totals) = (self.resident.scratch(scratch).clone(), self.resident.totals().clone());
        let values = self.read_some(&[(&top, 0, 2 * top_k), (&totals, 0, 2 * LogitsTopK::runs(op.vocab))])?;
        let (top, runs) = values.split_at(2 * top_k);
        let top = top.chunks_exact(2).map(|pair| (pair[1].to_bits(), pair[0]));
        Ok(LogitsSummary {
            // the kernel leaves no id where there are fewer numbers
            top: top.filter(|(id, _)| (*id as usize) < op.vocab).collect(),
            runs: runs.chunks_exact(2).map(|run| RunTotal { largest: run[0], total: run[1] }).collect(),
            vocab: op.vocab,
        })
    }
}
