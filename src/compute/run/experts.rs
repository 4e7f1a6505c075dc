//! Routed experts of a layer that are not all in memory: those there are computed while the others are read, and these as
//! they land.

use std::time::{Duration, Instant};

use crate::compute::device::{Device, ExpertLayer, LandedExpert};
use crate::compute::routing::{ExpertPairs, group_by_expert, read_ahead};
use crate::compute::step::ExecuteError;
use crate::experts::{Acquired, ExpertStore, Sweep};

use super::Runner;
use super::watch::Watch;

/// How long a read is waited for before whoever watches is asked.
const PATIENCE: Duration = Duration::from_millis(50);

/// Experts that are acquired together, and the pairs that chose them.
struct Window<'g> {
    acquired: Vec<Acquired>,
    groups: &'g [ExpertPairs],
}

impl<D: Device + ?Sized> Runner<D> {
    /// Reads what is missing and runs the experts of a layer, by the last router's choice. Whoever watches can end it; what
    /// was read by then stays in its slot.
    pub(super) fn stream_experts(
        &mut self,
        layer: &ExpertLayer<'_>,
        store: &mut ExpertStore,
        watch: Option<&mut Watch<'_>>,
    ) -> Result<(), ExecuteError> {
        let (op, experts) = (layer.op, store.layout().layers[layer.op.layer].experts);
        let groups = group_by_expert(self.layers_done, &self.routing[op.layer], op.out.rows_per_token, experts)?;
        let is_there = |group: &ExpertPairs| store.has_place(op.layer, group.expert);
        let sweep = Sweep::new(groups, store.capacity(op.layer), is_there);
        // the slots of windows that are not done
        let mut held = Vec::new();
        let mut outcome = self.run_windows(layer, store, &sweep, &mut held, watch);
        if matches!(outcome, Err(ExecuteError::Interrupted)) {
            outcome = self.call_off(layer, store).and(outcome);
        }
        store.release(&held);
        outcome
    }

    fn run_windows(
        &mut self,
        layer: &ExpertLayer<'_>,
        store: &mut ExpertStore,
        sweep: &Sweep<ExpertPairs>,
        held: &mut Vec<usize>,
        mut watch: Option<&mut Watch<'_>>,
    ) -> Result<(), ExecuteError> {
        let mut first_pair = 0;
        let mut windows = sweep.windows();
        let mut next = windows.next().map(|groups| self.open(layer, store, groups, held)).transpose()?;
        while let Some(now) = next.take() {
            if sweep.overlaps() {
                next = windows.next().map(|groups| self.open(layer, store, groups, held)).transpose()?;
            }
            self.run_window(layer, store, &now, &mut first_pair, watch.as_deref_mut())?;
            if next.is_none() && windows.len() == 0 {
                break;
            }
            // the reads of the window after next go into the slots of this one
            self.device.free_slots()?;
            store.release(&held.drain(..now.acquired.len()).collect::<Vec<_>>());
            if !sweep.overlaps() {
                next = windows.next().map(|groups| self.open(layer, store, groups, held)).transpose()?;
            }
        }
        Ok(())
    }

    /// Nobody wants the layer any more: waits for the reads that have begun. The device makes room for them.
    fn call_off(&mut self, layer: &ExpertLayer<'_>, store: &mut ExpertStore) -> Result<(), ExecuteError> {
        let mut pending = store.call_off();
        while !pending.is_empty() {
            // an error is that of a read which nobody waits for
            store.wait_some(&mut pending);
            self.device.run_experts(layer, &[], 0, !pending.is_empty())?;
        }
        Ok(())
    }

    /// Starts the reads of a window.
    fn open<'g>(
        &mut self,
        layer: &ExpertLayer<'_>,
        store: &mut ExpertStore,
        groups: &'g [ExpertPairs],
        held: &mut Vec<usize>,
    ) -> Result<Window<'g>, ExecuteError> {
        let wanted: Vec<u32> = groups.iter().map(|group| group.expert).collect();
        let acquired = store.acquire(layer.op.layer, &wanted)?;
        let slots: Vec<usize> = acquired.iter().map(|acquired| acquired.slot).collect();
        store.hold(&slots);
        held.extend(slots);
        // behind what this layer misses
        read_ahead(store, layer.op.layer + 1, &mut self.guess, self.look_ahead)?;
        Ok(Window { acquired, groups })
    }

    /// `first_pair` counts the (token, expert) pairs of the layer that were run.
    fn run_window(
        &mut self,
        layer: &ExpertLayer<'_>,
        store: &mut ExpertStore,
        window: &Window<'_>,
        first_pair: &mut usize,
        mut watch: Option<&mut Watch<'_>>,
    ) -> Result<(), ExecuteError> {
        let all = window.acquired.iter().zip(window.groups);
        let (hits, misses): (Vec<_>, Vec<_>) = all.partition(|(acquired, _)| acquired.hit);
        let mut pending: Vec<usize> = misses.iter().map(|(acquired, _)| acquired.slot).collect();
        // the device works on these, and on what does not wait for experts, while the others are read
        self.run_landed(layer, hits.into_iter(), first_pair, !pending.is_empty(), watch.as_deref_mut())?;
        // the first error is kept: reads that others depend on for memory go on
        let mut failed = Ok(());
        while !pending.is_empty() {
            let waiting = Instant::now();
            let patience = if watch.is_some() { PATIENCE } else { Duration::MAX };
            let done = store.wait_some_within(&mut pending, patience);
            self.device.has_waited(waiting);
            if let Some(watch) = &mut watch {
                watch.look(self.layers_done)?;
            }
            let Some(done) = done else { continue };
            let mut landed = Vec::new();
            for (slot, outcome) in done {
                match outcome {
                    Ok(()) => landed.push(slot),
                    Err(e) if failed.is_ok() => failed = Err(e),
                    Err(_) => {}
                }
            }
            let landed = misses.iter().filter(|(acquired, _)| landed.contains(&acquired.slot)).copied();
            self.run_landed(layer, landed, first_pair, !pending.is_empty(), watch.as_deref_mut())?;
        }
        Ok(failed?)
    }

    /// Runs experts that are there: all at once, or, where somebody watches, as many as take a short time.
    fn run_landed<'a>(
        &mut self,
        layer: &ExpertLayer<'_>,
        experts: impl Iterator<Item = (&'a Acquired, &'a ExpertPairs)>,
        first_pair: &mut usize,
        more: bool,
        mut watch: Option<&mut Watch<'_>>,
    ) -> Result<(), ExecuteError> {
        let landed =
            |(acquired, group): (&Acquired, &'a ExpertPairs)| LandedExpert { slot: acquired.slot, pairs: &group.pairs };
        let experts: Vec<LandedExpert<'_>> = experts.map(landed).collect();
        let mut rest = &experts[..];
        loop {
            let (now, after) = rest.split_at(self.fitting(rest, watch.is_some()));
            let (at, since) = (*first_pair, Instant::now());
            self.on_pool(|runner| runner.device.run_experts(layer, now, at, more))?;
            *first_pair += now.iter().map(|expert| expert.pairs.len()).sum::<usize>();
            rest = after;
            if rest.is_empty() {
                return Ok(());
            }
            self.device.keep_up()?;
            self.stride.learn_pairs(since.elapsed());
            if let Some(watch) = &mut watch {
                watch.look(self.layers_done)?;
            }
        }
    }

    /// How many of the experts are run before whoever watches is asked.
    fn fitting(&self, experts: &[LandedExpert<'_>], is_watched: bool) -> usize {
        let mut pairs = 0;
        let fits = |expert: &&LandedExpert<'_>| {
            let fits = pairs < self.stride.pairs;
            pairs += expert.pairs.len();
            fits
        };
        if is_watched { experts.iter().take_while(fits).count() } else { experts.len() }
    }
}
