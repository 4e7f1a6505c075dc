//! What a runner's device keeps: logits, state and caches, to the host and back.

use std::ops::Range;

use super::{Runner, rows_of};
use crate::compute::device::Device;
use crate::compute::ops::LogitsTopK;
use crate::compute::recording::{CacheId, TensorId, TensorSpec};
use crate::compute::step::{ExecuteError, LogitsSummary, TopLogits};

impl<D: Device + ?Sized> Runner<D> {
    /// Forgets everything: recurrent state to zero; caches are overwritten from position 0.
    pub(crate) fn reset(&mut self) -> Result<(), ExecuteError> {
        self.last = None;
        self.device.zero(&self.recording.state)
    }

    /// The logits of the last step's rows, `[rows, vocab]`.
    pub(crate) fn logits(&mut self) -> Result<Vec<f32>, ExecuteError> {
        let (Some(view), Some(step)) = (self.recording.logits, self.last) else { return Ok(Vec::new()) };
        let rows = self.device.read_rows(&[(view.tensor, step.logit_rows().1)])?;
        Ok(rows.iter().flat_map(|rows| rows_of(rows, view)).collect())
    }

    /// The `top_k` largest of the first `vocab` logits of the last token.
    ///
    /// # Errors
    /// [`ExecuteError::NotANumber`] where there is none, and the device's.
    pub(crate) fn top_logits(&mut self, top_k: usize, vocab: usize) -> Result<TopLogits, ExecuteError> {
        let (Some(view), Some(step)) = (self.recording.logits, self.last) else { return Ok(Vec::new()) };
        let last = step.logit_rows().1.saturating_sub(1);
        let op = LogitsTopK { top_k, vocab: vocab.min(view.width), offset: last * view.stride, temperature: 1.0 };
        let top = self.device.top_logits(view.tensor, op)?;
        if top.is_empty() { Err(ExecuteError::NotANumber) } else { Ok(top) }
    }

    /// The `top_k` largest of the first `vocab` logits of the last token, and what runs of them add up to, divided by
    /// `temperature`; `None` where the device does not tell.
    pub(crate) fn summarise_logits(
        &mut self,
        top_k: usize,
        vocab: usize,
        temperature: f32,
    ) -> Result<Option<LogitsSummary>, ExecuteError> {
        let (Some(view), Some(step)) = (self.recording.logits, self.last) else { return Ok(None) };
        let last = step.logit_rows().1.saturating_sub(1);
        let op = LogitsTopK { top_k, vocab: vocab.min(view.width), offset: last * view.stride, temperature };
        self.device.summarise(view.tensor, op)
    }

    /// Logits of the last token that [`summarise_logits`](Self::summarise_logits) takes as run `run` of `vocab`.
    pub(crate) fn run_of_logits(&mut self, run: usize, vocab: usize) -> Result<Vec<f32>, ExecuteError> {
        let (Some(view), Some(step)) = (self.recording.logits, self.last) else { return Ok(Vec::new()) };
        let row = step.logit_rows().1.saturating_sub(1) * view.stride;
        let (first, end) = (run * LogitsSummary::RUN, ((run + 1) * LogitsSummary::RUN).min(vocab).min(view.width));
        self.device.read_elements(view.tensor, row + first..row + end)
    }

    /// The copies that the last step made: for each mark the state tensors of the recording, in its order and as
    /// [`read_states`](Self::read_states) gives them.
    pub(crate) fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError> {
        self.device.take_marked()
    }

    /// Reads state tensors, rows of their width, with few waits for the device.
    pub(crate) fn read_states(&mut self, tensors: &[TensorId]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        let rows =
            |tensor: &TensorId| (*tensor, self.recording.elements(*tensor) / self.recording.spec(*tensor).stride);
        let rows: Vec<_> = tensors.iter().map(rows).collect();
        let states = self.device.read_rows(&rows)?;
        let states = states.into_iter().zip(tensors);
        Ok(states.map(|(rows, tensor)| without_padding(self.recording.spec(*tensor), rows)).collect())
    }

    /// Overwrites a state tensor with what [`read_states`](Self::read_states) gave.
    ///
    /// # Errors
    /// [`ExecuteError::StateSize`] for another number of values, and the device's.
    pub(crate) fn write_state(&mut self, tensor: TensorId, values: &[f32]) -> Result<(), ExecuteError> {
        let spec = self.recording.spec(tensor);
        let elements = self.recording.elements(tensor);
        check_size(&spec.label, "values", elements / spec.stride * spec.width, values.len())?;
        self.last = None;
        if spec.stride == spec.width {
            self.device.write_rows(tensor, values);
        } else {
            let mut rows = vec![0.0; elements];
            for (row, values) in rows.chunks_exact_mut(spec.stride).zip(values.chunks_exact(spec.width)) {
                row[..spec.width].copy_from_slice(values);
            }
            self.device.write_rows(tensor, &rows);
        }
        // a session file may hold gigabytes: the device's copies of what is written go as they come
        self.device.finish()
    }

    /// Reads rows of one stream of a cache, in its format.
    ///
    /// # Errors
    /// Positions beyond the cache, and the device's.
    pub(crate) fn read_cache_rows(
        &mut self,
        cache: CacheId,
        stream: usize,
        positions: Range<usize>,
    ) -> Result<Vec<u8>, ExecuteError> {
        self.check_positions(positions.end)?;
        self.device.reach(positions.end)?;
        self.device.read_cache_rows(cache, stream, positions)
    }

    /// Overwrites rows of one stream of a cache from position `first` on, in its format.
    ///
    /// # Errors
    /// Bytes that are no whole rows, positions beyond the cache, and the device's.
    pub(crate) fn write_cache_rows(
        &mut self,
        cache: CacheId,
        stream: usize,
        first: usize,
        rows: &[u8],
    ) -> Result<(), ExecuteError> {
        let spec = &self.recording.caches[cache.0];
        let row = spec.streams[stream].row_bytes();
        check_size(&spec.label, "bytes", rows.len() / row * row, rows.len())?;
        let end = first + rows.len() / row;
        self.check_positions(end)?;
        self.device.reach(end)?;
        self.device.write_cache_rows(cache, stream, first, rows);
        self.device.finish()
    }

    fn check_positions(&self, end: usize) -> Result<(), ExecuteError> {
        match end <= self.context {
            true => Ok(()),
            false => Err(ExecuteError::TooLarge { what: "positions (raise --ctx)", most: self.context, found: end }),
        }
    }
}

fn check_size(what: &str, unit: &'static str, expected: usize, found: usize) -> Result<(), ExecuteError> {
    match expected == found {
        true => Ok(()),
        false => Err(ExecuteError::StateSize { what: what.to_owned(), unit, expected, found }),
    }
}

/// The rows of a tensor without what fills them up to its stride.
pub(in crate::compute) fn without_padding(spec: &TensorSpec, rows: Vec<f32>) -> Vec<f32> {
    match spec.stride == spec.width {
        true => rows,
        false => rows.chunks_exact(spec.stride).flat_map(|row| &row[..spec.width]).copied().collect(),
    }
}
