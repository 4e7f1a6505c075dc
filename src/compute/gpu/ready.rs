//! The operations of a recording, ready to be dispatched.

use std::collections::HashMap;

use flashflood_backends::gpu::chain::{Chain, NoChain};

use super::device::GpuDevice;
use super::pipelines::{ChainStage, PassStage, Pipelines};
use super::resident::Resident;
use super::slots::GpuSlots;
use crate::compute::kernel::{Binding, Kernel, Resource, Stage};
use crate::compute::ops::{Experts, LogitsTopK};
use crate::compute::recording::{Recorded, Recording};
use crate::compute::step::ExecuteError;

/// The stages of an operation.
#[derive(Default)]
pub(super) struct ReadyStages {
    /// Names of their shaders.
    pub(super) shaders: Vec<&'static str>,
    pub(super) way: Way,
}

/// How dispatches of an operation are recorded.
pub(super) enum Way {
    /// By wgpu.
    Passes(Vec<PassStage>),
    /// By the chain of the device.
    Chain(Vec<ChainStage>),
}

impl Default for Way {
    fn default() -> Self {
        Way::Passes(Vec::new())
    }
}

/// What makes stages ready: with a chain for it, else for wgpu's passes.
pub(super) struct Maker<'a> {
    pub(super) pipelines: &'a mut Pipelines,
    pub(super) chain: Option<&'a mut Chain>,
    pub(super) recording: &'a Recording,
    pub(super) resident: &'a Resident,
    pub(super) slots: Option<&'a GpuSlots>,
}

/// All operations of a recording.
pub(super) struct Ready {
    /// One for each step.
    pub(super) steps: Vec<ReadyStages>,
    pub(super) top_k: Option<ReadyStages>,
    /// Of each slab, as the bind groups of a step know it.
    generations: HashMap<(usize, usize), u64>,
}

impl Maker<'_> {
    /// # Errors
    /// What a chain cannot make; wgpu's errors come to light otherwise.
    pub(super) fn all(&mut self) -> Result<Ready, NoChain> {
        let recording = self.recording;
        let (mut steps, mut generations) = (Vec::new(), HashMap::new());
        for (index, recorded) in recording.steps.iter().enumerate() {
            steps.push(match recorded {
                Recorded::Kernel { kernel, .. } => {
                    let slabs = kernel.expert_layer().map(|layer| self.slabs(index, layer, &mut generations));
                    self.stages(&kernel.stages(self.resident), &slabs.unwrap_or_default())?
                }
                Recorded::Route(_) | Recorded::LayerDone(_) => ReadyStages::default(),
                Recorded::Experts(op) => {
                    let slabs = self.slabs(index, op.layer, &mut generations);
                    self.stages(&op.stages(self.resident, slabs.len()), &slabs)?
                }
            });
        }
        let top_k = recording.logits.map(|logits| self.stages(&LogitsTopK::stages(logits.tensor), &[])).transpose()?;
        if let Some(chain) = &mut self.chain {
            chain.forget_modules();
        }
        Ok(Ready { steps, top_k, generations })
    }

    /// The slabs of a layer; the others are not there for it.
    fn slabs(
        &self,
        index: usize,
        layer: usize,
        generations: &mut HashMap<(usize, usize), u64>,
    ) -> Vec<Option<wgpu::Buffer>> {
        let Some(slots) = self.slots else { return Vec::new() };
        let mut slabs = vec![None; slots.slabs()];
        for slab in slots.slabs_of(layer) {
            let (buffer, generation) = slots.slab(slab);
            slabs[slab] = buffer;
            generations.insert((index, slab), generation);
        }
        slabs
    }

    fn stages(&mut self, stages: &[Stage], slabs: &[Option<wgpu::Buffer>]) -> Result<ReadyStages, NoChain> {
        let resident = self.resident;
        let resource = |b: Binding| resident.binding(b.1, slabs);
        let way = match &mut self.chain {
            Some(chain) => {
                let made = stages.iter().map(|stage| ChainStage::new(chain, stage, resource));
                Way::Chain(made.collect::<Result<_, _>>()?)
            }
            None => Way::Passes(stages.iter().map(|stage| self.pipelines.ready(stage, resource)).collect()),
        };
        Ok(ReadyStages { shaders: stages.iter().map(|stage| stage.shader).collect(), way })
    }
}

impl GpuDevice {
    /// Makes the bind groups of a layer's experts anew for slabs that came, and drops those for slabs that went.
    pub(super) fn follow_slabs(&mut self, index: usize, op: &Experts) -> Result<(), ExecuteError> {
        self.follow(index, op.layer, |resident, slabs| op.stages(resident, slabs), |slab| slab)
    }

    /// The same for a kernel that reads the one slab of a layer.
    pub(super) fn follow_slab(&mut self, index: usize, kernel: &dyn Kernel) -> Result<(), ExecuteError> {
        let Some(layer) = kernel.expert_layer() else { return Ok(()) };
        self.follow(index, layer, |resident, _| kernel.stages(resident), |_| 0)
    }

    /// Follows the slabs of a layer for step `index`, whose stages have bind group `group_of` for each.
    fn follow(
        &mut self,
        index: usize,
        layer: usize,
        stages: impl Fn(&Resident, usize) -> Vec<Stage>,
        group_of: impl Fn(usize) -> usize,
    ) -> Result<(), ExecuteError> {
        let Some(slots) = self.slots.clone() else { return Ok(()) };
        for slab in slots.slabs_of(layer) {
            if self.ready.generations.get(&(index, slab)) == Some(&slots.generation(slab)) {
                continue;
            }
            let mut slabs = vec![None; slots.slabs()];
            let (buffer, generation) = slots.slab(slab);
            slabs[slab] = buffer;
            let stages = stages(&self.resident, slots.slabs());
            self.regroup(index, &stages, group_of(slab), &slabs)?;
            // only now: a step that failed is followed by one that tries again
            self.ready.generations.insert((index, slab), generation);
        }
        Ok(())
    }

    /// Makes the bind groups of windows of caches that have come since there were `before` of each.
    pub(super) fn follow_windows(&mut self, before: &[usize]) -> Result<(), ExecuteError> {
        let recording = self.recording.clone();
        let is_new = |binding: &Binding| match binding.1 {
            Resource::Cache(cache, _, window) => window >= before[cache.0],
            _ => false,
        };
        let made = self.resident.windows_made();
        for (index, recorded) in recording.steps.iter().enumerate() {
            let Recorded::Kernel { kernel, .. } = recorded else { continue };
            let stages = kernel.stages(&self.resident);
            for group in 0..made.iter().copied().max().unwrap_or(0) {
                let of_windows = |stage: &Stage| stage.groups.get(group).is_some_and(|group| group.iter().any(is_new));
                if stages.iter().any(of_windows) {
                    self.regroup(index, &stages, group, &[])?;
                }
            }
        }
        // what memory does not hold shows here
        self.check()
    }

    /// Makes bind group `group` of the stages of an operation that have so many anew.
    fn regroup(
        &mut self,
        index: usize,
        stages: &[Stage],
        group: usize,
        slabs: &[Option<wgpu::Buffer>],
    ) -> Result<(), ExecuteError> {
        let submission = self.encoding.next_number();
        let resource = |b: Binding| self.resident.binding(b.1, slabs);
        for ready in std::iter::once(&mut self.ready).chain(&mut self.timed) {
            let groups = stages.iter().map(|stage| stage.groups.get(group));
            match (&mut ready.steps[index].way, &mut self.encoding.chain) {
                (Way::Passes(ready), _) => {
                    for (ready, bindings) in ready.iter_mut().zip(groups) {
                        if let Some(bindings) = bindings {
                            ready.regroup(&self.gpu.device, group, bindings, resource);
                        }
                    }
                }
                (Way::Chain(ready), chain) => {
                    let chain = chain.as_mut().expect("its stages were made with it");
                    for (ready, bindings) in ready.iter_mut().zip(groups) {
                        if let Some(bindings) = bindings {
                            let made = ready.regroup(chain, group, bindings, resource, submission);
                            made.map_err(|e| ExecuteError::Gpu(e.to_string()))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
