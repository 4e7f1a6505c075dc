use rayon::prelude::*;

use super::expert_groups;
use super::swiglu::{check_swiglu, swiglu_on_cpu};
use super::{Input, Quantised, sigmoid};
use crate::compute::cpu::{CpuMemory, at_least, row};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect, shape_error};
use crate::compute::{Phase, Step};

/// Experts that a token may have, and groups of experts that there may be.
const MOST_CHOSEN: usize = 32;

/// What the scores of experts are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scoring {
    /// A softmax over the logits of all experts.
    Softmax,
    /// The sigmoid of each logit.
    Sigmoid,
}

/// Experts in groups of equal size, side by side, of which only the best are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    /// How many there are.
    pub count: usize,
    /// How many of them are looked at: those with the largest sums of their two best corrected scores.
    pub chosen: usize,
}

/// How experts are chosen and weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RouterRule {
    /// What is made of the logits.
    pub scoring: Scoring,
    /// `[experts]`: added to the scores for the choice alone; weights are without it.
    pub correction: Option<VectorId>,
    /// Groups of experts; without them all experts are looked at.
    pub groups: Option<Groups>,
    /// Weights sum to `scale` over the chosen experts. Else they are the scores, times `scale`.
    pub renormalise: bool,
    /// Multiplies the weights.
    pub scale: f32,
}

impl RouterRule {
    /// The experts with the largest logits, weighted by a softmax over them (`renormalise`) or over all.
    pub(crate) fn softmax(renormalise: bool) -> Self {
        RouterRule { scoring: Scoring::Softmax, correction: None, groups: None, renormalise, scale: 1.0 }
    }

    /// Whether the largest scores are chosen. Without correction and groups the largest logits are the same, and they are
    /// the same on every device.
    fn chooses_by_score(&self) -> bool {
        self.correction.is_some() || self.groups.is_some()
    }

    fn check(&self, recording: &Recording, op: &'static str, experts: usize, top_k: usize) -> Result<(), ShapeError> {
        if let Some(correction) = self.correction {
            expect(op, "correction", experts, recording.vectors[correction.0].1.len())?;
        }
        let Some(Groups { count, chosen }) = self.groups else { return Ok(()) };
        if count == 0 || count > MOST_CHOSEN || chosen == 0 || chosen > count {
            let found = format!("{chosen} of {count}");
            return Err(shape_error(op, "groups", format!("1 or more of at most {MOST_CHOSEN}"), found));
        }
        expect(op, "experts beyond groups of one size", 0, experts % count)?;
        let size = experts / count;
        if size < 2 || chosen * size < top_k {
            let expected = format!("2 or more, in {chosen} groups together {top_k} or more");
            return Err(shape_error(op, "experts of a group", expected, size));
        }
        Ok(())
    }

    fn scores(&self, logits: &[f32]) -> Vec<f32> {
        match self.scoring {
            Scoring::Sigmoid => logits.iter().map(|logit| sigmoid(*logit)).collect(),
            Scoring::Softmax => {
                let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
                logits.iter().map(|logit| (logit - top).exp() / sum).collect()
            }
        }
    }

    /// Writes one token's experts and their weights.
    fn choose(&self, memory: &CpuMemory, logits: &[f32], ids: &mut [f32], weights: &mut [f32]) {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let mut scores = Vec::new();
        if self.chooses_by_score() || self.scoring == Scoring::Sigmoid {
            scores = self.scores(logits);
        }
        if self.chooses_by_score() {
            let mut corrected = scores.clone();
            if let Some(correction) = self.correction {
                corrected.iter_mut().zip(memory.vector(correction)).for_each(|(score, c)| *score += c);
            }
            if let Some(groups) = self.groups {
                let size = logits.len() / groups.count;
                let looked_at = best_groups(groups, &corrected);
                order.retain(|e| looked_at.contains(&(e / size)));
            }
            sort_by_value(&mut order, ids.len(), &corrected);
        } else {
            // the order of all others matters where they are added up
            let sorted = if self.renormalise || !scores.is_empty() { ids.len() } else { order.len() };
            sort_by_value(&mut order, sorted, logits);
        }
        let chosen = &order[..ids.len()];
        for (id, e) in ids.iter_mut().zip(chosen) {
            *id = f32::from_bits(*e as u32);
        }
        let weights = weights.iter_mut().zip(chosen);
        if scores.is_empty() {
            let top = logits[chosen[0]];
            let over: &[usize] = if self.renormalise { chosen } else { &order };
            let sum: f32 = over.iter().map(|&e| (logits[e] - top).exp()).sum();
            weights.for_each(|(weight, &e)| *weight = (logits[e] - top).exp() / sum * self.scale);
        } else {
            let sum: f32 = chosen.iter().map(|&e| scores[e]).sum();
            // a sum of 0 leaves 0
            let by = if self.renormalise { sum + 1e-20 } else { 1.0 };
            weights.for_each(|(weight, &e)| *weight = scores[e] / by * self.scale);
        }
    }
}

/// The groups that are looked at, by number.
fn best_groups(groups: Groups, corrected: &[f32]) -> Vec<usize> {
    let sum_of_best = |group: &[f32]| {
        let mut order: Vec<usize> = (0..group.len()).collect();
        sort_by_value(&mut order, 2, group);
        group[order[0]] + group[order[1]]
    };
    let sums: Vec<f32> = corrected.chunks_exact(corrected.len() / groups.count).map(sum_of_best).collect();
    let mut order: Vec<usize> = (0..groups.count).collect();
    sort_by_value(&mut order, groups.chosen, &sums);
    order.truncate(groups.chosen);
    order
}

/// The first `count` are the largest, largest first, ties to the lowest index. NaN comes last, so that it shows in the weights
/// and not as a panic.
fn sort_by_value(order: &mut [usize], count: usize, values: &[f32]) {
    let compare = |a: &usize, b: &usize| {
        let is_nan = values[*a].is_nan().cmp(&values[*b].is_nan());
        is_nan.then(values[*b].total_cmp(&values[*a])).then(a.cmp(b))
    };
    if (1..order.len()).contains(&count) {
        order.select_nth_unstable_by(count - 1, compare);
    }
    let first = count.min(order.len());
    order[..first].sort_unstable_by(compare);
}

/// Chooses the experts of each token and weights them, as its [`RouterRule`] says. Where all experts are in memory the GPU
/// looks their slots up as well, and groups the pairs of a prompt by expert ([`expert_groups`]). Beside it the SwiGLU of the
/// shared expert is taken, which waits for the same product and no other.
#[derive(Clone)]
pub(crate) struct RouterTopK {
    /// Layer among those with experts, for slots.
    pub layer: usize,
    /// `[tokens, experts]`
    pub logits: View,
    /// `[tokens, top_k]`, a whole tensor of ids
    pub ids: View,
    /// `[tokens, top_k]`, a whole tensor
    pub weights: View,
    /// Which experts are chosen, and what they weigh.
    pub rule: RouterRule,
    /// The shared expert's gate and up side by side, `[tokens, 2 * width]`, and where `silu(gate) * up` goes:
    /// `[tokens, width]`, a whole tensor.
    pub shared: Option<(View, Input)>,
}

impl RouterTopK {
    /// One for each expert, as far as a workgroup goes.
    fn threads(&self, resident: &dyn ResidentLayout) -> usize {
        self.logits.width.next_multiple_of(32).min(resident.threads())
    }
}

impl RouterTopK {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let mut all = vec![(Use::Read, &mut self.logits), (Use::Write, &mut self.ids), (Use::Write, &mut self.weights)];
        if let Some((gate_up, hidden)) = &mut self.shared {
            all.extend([(Use::Read, gate_up), (Use::Write, hidden.view_mut())]);
        }
        all
    }
}

impl Kernel for RouterTopK {
    fn name(&self) -> &'static str {
        "router_top_k"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        if self.logits.width > 1024 || self.ids.width > self.logits.width || self.ids.width > MOST_CHOSEN {
            let found = format!("{} of {}", self.ids.width, self.logits.width);
            return Err(shape_error(name, "top_k of experts", "at most 32 of at most 1024", found));
        }
        expect(name, "columns of weights", self.ids.width, self.weights.width)?;
        self.rule.check(recording, name, self.logits.width, self.ids.width)?;
        if let Some((gate_up, hidden)) = self.shared {
            check_swiglu(name, gate_up, hidden)?;
        }
        expect(name, "offset of ids and weights", 0, self.ids.offset + self.weights.offset)
    }

    fn outputs(&self) -> Vec<View> {
        [self.ids, self.weights].into_iter().chain(self.shared.map(|(_, hidden)| hidden.view())).collect()
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut ids = memory.take(self.ids.tensor);
        let mut weights = memory.take(self.weights.tensor);
        let logits = memory.tensor(self.logits.tensor);
        let rows = ids.par_chunks_mut(self.ids.stride).zip(weights.par_chunks_mut(self.weights.stride));
        // a logit is sorted in the time of some elements of anything else
        let each = at_least(16 * self.logits.width);
        rows.take(step.tokens).enumerate().with_min_len(each).for_each(|(t, (ids, weights))| {
            let (ids, weights) = (&mut ids[..self.ids.width], &mut weights[..self.weights.width]);
            self.rule.choose(memory, row(logits, self.logits, t), ids, weights);
        });
        memory.put_back(self.weights.tensor, weights);
        memory.put_back(self.ids.tensor, ids);
        if let Some((gate_up, hidden)) = self.shared {
            swiglu_on_cpu(memory, step, gate_up, hidden);
        }
    }

    fn scratch_bytes(&self, _context: usize, _tokens: usize) -> usize {
        expert_groups::scratch_bytes(self.logits.width)
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let (gate_up, hidden) = match self.shared {
            Some((gate_up, hidden)) => (Resource::Tensor(gate_up.tensor), Resource::Tensor(hidden.view().tensor)),
            // without a shared expert the kernel touches neither
            None => (Resource::Tensor(self.logits.tensor), Resource::Scratch),
        };
        let threads = self.threads(resident);
        // without a correction that binding is not read
        let correction = self.rule.correction.map_or(Resource::Tensor(self.logits.tensor), Resource::Vector);
        let (groups, chosen_groups) = self.rule.groups.map_or((1, 0), |groups| (groups.count, groups.chosen));
        let mut constants = vec![
            ("threads", threads as f64),
            ("is_sigmoid", f64::from(u8::from(self.rule.scoring == Scoring::Sigmoid))),
            ("has_correction", f64::from(u8::from(self.rule.correction.is_some()))),
            ("groups", groups as f64),
            ("chosen_groups", chosen_groups as f64),
        ];
        constants.extend(Quantised::constants(self.shared.and_then(|(_, hidden)| hidden.packed()), threads));
        let mut stages = vec![Stage {
            shader: "router_top_k",
            constants,
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.logits.tensor)),
                Binding::read(Resource::Slots),
                Binding::read(gate_up),
                Binding::read(correction),
                Binding::write(Resource::Tensor(self.ids.tensor)),
                Binding::write(Resource::Tensor(self.weights.tensor)),
                Binding::write(Resource::Pairs),
                Binding::write(hidden),
            ]],
        }];
        stages.extend(expert_groups::stages(self.ids));
        stages
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let (width, gate_up_offset, gate_up_stride, hidden_stride) = match self.shared {
            Some((gate_up, hidden)) => (hidden.cols(), gate_up.offset, gate_up.stride, hidden.view().stride),
            None => (0, 0, 0, 0),
        };
        let immediates = params! {
            experts: self.logits.width as u32,
            top_k: self.ids.width as u32,
            renormalise: u32::from(self.rule.renormalise),
            x_offset: self.logits.offset as u32,
            x_stride: self.logits.stride as u32,
            ids_stride: self.ids.stride as u32,
            weights_stride: self.weights.stride as u32,
            first_slot: resident.first_slot(self.layer) as u32,
            // pairs of a prompt are grouped by expert
            with_pairs: u32::from(resident.all_resident() && step.phase == Phase::Decode),
            width: width as u32,
            gate_up_offset: gate_up_offset as u32,
            gate_up_stride: gate_up_stride as u32,
            hidden_stride: hidden_stride as u32,
            scale: self.rule.scale.to_bits(),
        };
        let packs = self.shared.is_some_and(|(_, hidden)| hidden.packed().is_some());
        let each = if packs { 4 } else { 1 };
        let groups = 1 + width.div_ceil(each * self.threads(resident));
        out.push(Dispatch::new(0, 0, immediates, [groups as u32, step.tokens as u32, 1]));
        if resident.all_resident() && step.phase == Phase::Prefill {
            let first_slot = resident.first_slot(self.layer);
            out.extend(expert_groups::dispatches(self.ids, self.logits.width, first_slot, step.tokens, 1));
        }
    }
}
