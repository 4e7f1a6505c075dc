//! What a device is to the step loop: it runs or encodes kernels, makes the router's choice known, computes experts whose
//! bytes are in slots, and keeps tensors, state and caches.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use super::ops::{Experts, LogitsTopK, Pair};
use super::recording::{CacheId, TensorId, View};
use super::step::{ExecuteError, HostWork, KernelTime, LogitsSummary, ProfiledSteps, Span, Step, TopLogits};

/// The routed experts of one layer in one step.
pub(crate) struct ExpertLayer<'a> {
    /// Place of the operation in the recording.
    pub index: usize,
    /// The operation.
    pub op: &'a Experts,
    /// The step.
    pub step: &'a Step,
}

/// An expert whose bytes have landed.
pub(crate) struct LandedExpert<'a> {
    /// The slot they are for.
    pub slot: usize,
    /// The (token, expert) pairs that chose it, in order of tokens; where their slot is, is not set yet.
    pub pairs: &'a [Pair],
}

/// What a router chose.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// `[tokens, top_k]`
    pub ids: Vec<u32>,
    /// The guess at the next layer's choice, of the same shape; empty where none was asked for.
    pub guess: Vec<u32>,
}

/// Computes the operations of a recording that it was made for, in the order in which [`Runner`](super::Runner) asks for
/// them. Work may be put off: whoever reads waits for it.
pub(crate) trait Device: Send {
    /// For people.
    fn name(&self) -> String;

    /// Whether operations are computed by the calling thread, which must then be one of rayon's: from outside, each
    /// operation would wake one and wait for it.
    fn is_on_pool(&self) -> bool {
        false
    }

    /// Makes room in caches for so many positions, where that is not there from the beginning.
    fn reach(&mut self, _positions: usize) -> Result<(), ExecuteError> {
        Ok(())
    }

    /// Takes the inputs of a step, and makes room for the state of so many marks.
    fn begin(&mut self, embedded: &[f32], rope: &[f32], marks: usize);

    /// Runs operation `index` of the recording, for the tokens `part` of the step where it is taken in parts.
    fn run_kernel(&mut self, index: usize, kernel: &dyn Kernel, step: &Step, part: Option<Range<usize>>);

    /// Copies state tensors, as they are after what was run so far, for a mark.
    fn keep_state(&mut self, mark: usize, tensors: &[TensorId]);

    /// What was kept in the last step: for each mark the state tensors of the recording, rows of their width.
    fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError>;

    /// Whether outputs that only the next kernel would read are written: somebody looks at them.
    fn write_all_outputs(&mut self, _all: bool) {}

    /// Whether experts find their slots without the host: every expert is in its slot.
    fn looks_up(&self) -> bool {
        false
    }

    /// Keeps what it is asked to run from now on, until [`end_preparing`](Device::end_preparing), for a step to come;
    /// `false` where it cannot.
    fn begin_preparing(&mut self) -> bool {
        false
    }

    /// What it was asked to run is step `step`.
    fn end_preparing(&mut self, _step: Step) {}

    /// Runs a step that was prepared; `false` where it was not this one.
    fn run_prepared(&mut self, _step: &Step) -> bool {
        false
    }

    /// Begins to make the router's choice known, `[tokens, top_k]` in a tensor of ids, and a guess at the next one.
    fn begin_choice(&mut self, ids: View, guess: Option<View>, step: &Step);

    /// Waits for the choice that was begun last.
    fn finish_choice(&mut self) -> Result<Choice, ExecuteError>;

    /// Runs the experts of a layer on a device that [looks them up](Device::looks_up).
    fn look_up_experts(&mut self, _layer: &ExpertLayer<'_>) {}

    /// Runs some experts of a layer, with the pairs from `first_pair` on; those before are of earlier calls. Where `more`
    /// are being read the device starts now on all that it was asked for, and makes room for reads that wait for memory.
    fn run_experts(
        &mut self,
        layer: &ExpertLayer<'_>,
        experts: &[LandedExpert<'_>],
        first_pair: usize,
        more: bool,
    ) -> Result<(), ExecuteError>;

    /// Waits until slots of the experts that were run may be filled with others.
    fn free_slots(&mut self) -> Result<(), ExecuteError> {
        Ok(())
    }

    /// Starts on all that was asked for, and waits until no more than the work since the last call, and this one's, is to
    /// be done: whoever watches a prompt would otherwise be told of work that is yet to come, and could not end it.
    fn keep_up(&mut self) -> Result<(), ExecuteError> {
        Ok(())
    }

    /// Ends a step: nothing that was run is put off for the next one.
    fn end(&mut self) -> Result<(), ExecuteError> {
        Ok(())
    }

    /// Ends a step that failed or was interrupted: nothing is left of it for the next one.
    fn abandon(&mut self) {}

    /// The first rows of tensors: so many of each, of its stride.
    fn read_rows(&mut self, tensors: &[(TensorId, usize)]) -> Result<Vec<Vec<f32>>, ExecuteError>;

    /// Overwrites the first elements of a tensor: rows of its stride.
    fn write_rows(&mut self, tensor: TensorId, values: &[f32]);

    /// Overwrites tensors with zeros.
    fn zero(&mut self, tensors: &[TensorId]) -> Result<(), ExecuteError>;

    /// Rows of some positions of one stream of a cache.
    fn read_cache_rows(
        &mut self,
        cache: CacheId,
        stream: usize,
        positions: Range<usize>,
    ) -> Result<Vec<u8>, ExecuteError>;

    /// Overwrites rows of a stream from position `first` on.
    fn write_cache_rows(&mut self, cache: CacheId, stream: usize, first: usize, rows: &[u8]);

    /// The largest of a row of logits, largest first.
    fn top_logits(&mut self, logits: TensorId, op: LogitsTopK) -> Result<TopLogits, ExecuteError>;

    /// The largest of a row of logits and what its runs add up to; `None` where all logits are as cheap to read.
    fn summarise(&mut self, _logits: TensorId, _op: LogitsTopK) -> Result<Option<LogitsSummary>, ExecuteError> {
        Ok(None)
    }

    /// Some elements of a tensor, of a device that [summarises](Device::summarise).
    fn read_elements(&mut self, _tensor: TensorId, _elements: Range<usize>) -> Result<Vec<f32>, ExecuteError> {
        Ok(Vec::new())
    }

    /// Waits until everything that was asked for is done, what was written included.
    fn finish(&mut self) -> Result<(), ExecuteError> {
        Ok(())
    }

    /// Since `from` the host has waited for the disk.
    fn has_waited(&mut self, _from: Instant) {}

    /// Times every kernel from now on; `false` when the device has no timestamps.
    fn profile(&mut self) -> bool {
        false
    }

    /// Times since [`Device::profile`], longest first.
    fn kernel_times(&self) -> Vec<KernelTime> {
        Vec::new()
    }

    /// Steps since [`Device::profile`].
    fn profiled_steps(&self) -> ProfiledSteps {
        ProfiledSteps::default()
    }

    /// What the host has done so that the device computes.
    fn host_work(&self) -> HostWork {
        HostWork::default()
    }

    /// Keeps what host and device do from now on.
    fn keep_spans(&mut self) {}

    /// What was kept; nothing is kept any more.
    fn take_spans(&mut self) -> Vec<Span> {
        Vec::new()
    }

    /// Time that the host has waited for the device so far, reads of experts left out.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }

    /// How long the host waits for a submission that does nothing; `None` for a device that it does not wait for.
    fn round_trip(&mut self) -> Result<Option<Duration>, ExecuteError> {
        Ok(None)
    }

    /// Bytes per second at which the device reads its memory, measured now; `None` where that cannot be timed.
    fn bandwidth(&self) -> Result<Option<f64>, ExecuteError> {
        Ok(None)
    }
}
