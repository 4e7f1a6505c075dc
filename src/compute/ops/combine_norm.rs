use rayon::prelude::*;

use super::rms_norm::{check_packed, norm_row, row_threads};
use super::{Combine, ExpertDown, Quantised, RmsNorm, Unscaled};
use crate::compute::cpu::{CpuMemory, at_least, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect};
use crate::compute::{Phase, Step};

/// [`Combine`], and the norm of the sum for what comes next.
#[derive(Clone)]
pub(crate) struct CombineNorm {
    /// `[tokens, width]`: the residual stream, a whole tensor
    pub x: View,
    /// `[tokens * top_k, width]`, a whole tensor with `top_k` rows per token
    pub routed: View,
    /// `[tokens, top_k]`, a whole tensor
    pub weights: View,
    /// The shared expert's output `[tokens, width]` (a whole tensor) and its gate `[tokens, 1]` before the sigmoid; without
    /// a gate it is added as it is.
    pub shared: Option<(View, Option<View>)>,
    /// `[width]`: weight of the norm
    pub norm: VectorId,
    /// `[tokens, width]`: the norm of what `x` then is, a whole tensor
    pub out: View,
    /// The same in 8 bits, for products that want it.
    pub packed: Option<Quantised>,
    /// Added to the mean of the squares.
    pub eps: f32,
    /// In decode only the first half of the norm is taken.
    pub unscaled: Option<Unscaled>,
    /// In decode it may make the last product of the experts itself: only with `unscaled`.
    pub down: Option<ExpertDown>,
}

/// Vectors of 4 elements that a workgroup of `combine_unscaled` adds up.
const THREADS: usize = 64;

impl CombineNorm {
    /// The norm by itself.
    pub(crate) fn as_norm(&self) -> RmsNorm {
        RmsNorm { x: self.x, weight: self.norm, out: self.out, packed: self.packed, eps: self.eps }
    }

    pub(super) fn shared_words(&self) -> (u32, u32, u32) {
        self.combine().shared_words()
    }

    fn unscaled(&self, step: &Step) -> Option<Unscaled> {
        self.unscaled.filter(|_| step.phase == Phase::Decode)
    }

    fn combine(&self) -> Combine {
        Combine { x: self.x, routed: self.routed, weights: self.weights, shared: self.shared }
    }
}

impl CombineNorm {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let mut all = vec![(Use::Update, &mut self.x), (Use::Read, &mut self.routed), (Use::Read, &mut self.weights)];
        if let Some((out, gate)) = &mut self.shared {
            all.push((Use::Read, out));
            all.extend(gate.iter_mut().map(|gate| (Use::Read, gate)));
        }
        all.push((Use::Write, &mut self.out));
        all.extend(self.packed.iter_mut().map(|packed| (Use::Write, &mut packed.words)));
        all.extend(self.unscaled.iter_mut().map(|unscaled| unscaled.operand(Use::Write)));
        all.extend(self.down.iter_mut().map(|down| down.operand()));
        all
    }
}

impl Kernel for CombineNorm {
    fn name(&self) -> &'static str {
        "combine_norm"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        self.combine().check_operands(name)?;
        expect(name, "norm", self.x.width, recording.vectors[self.norm.0].1.len())?;
        expect(name, "columns of out", self.x.width, self.out.width)?;
        check_packed(name, self.x.width, self.packed)?;
        self.unscaled.map_or(Ok(()), |unscaled| unscaled.check(name, recording, self.x.width))?;
        if let Some(down) = &self.down {
            down.check(name, self)?;
            expect(name, "halves of a norm with a product", 1, usize::from(self.unscaled.is_some()))?;
        }
        expect(name, "offset of out", 0, self.out.offset)
    }

    fn outputs(&self) -> Vec<View> {
        [self.x, self.out].into_iter().chain(self.packed.map(|p| p.words)).collect()
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        if let Some(unscaled) = self.unscaled(step) {
            self.combine().run_on_cpu(memory, step);
            return unscaled.write_on_cpu(memory, &self.as_norm());
        }
        let mut x = memory.take(self.x.tensor);
        let mut out = memory.take(self.out.tensor);
        let (combine, norm) = (self.combine(), memory.vector(self.norm));
        let rows = x.par_chunks_mut(self.x.stride).zip(out.par_chunks_mut(self.out.stride));
        rows.take(step.tokens).enumerate().with_min_len(at_least(self.x.width)).for_each(|(t, (x, out))| {
            let x = row_mut(x, self.x);
            combine.add_to_row(memory, t, x);
            norm_row(x, norm, self.eps, row_mut(out, self.out));
        });
        if let Some(packed) = self.packed {
            let mut words = memory.take(packed.words.tensor);
            packed.pack_rows_on_cpu(&mut words, &out, self.out, 0..step.tokens);
            memory.put_back(packed.words.tensor, words);
        }
        memory.put_back(self.out.tensor, out);
        memory.put_back(self.x.tensor, x);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let threads = row_threads(self.x.width, resident);
        let mut constants = vec![("threads", threads as f64), ("top_k", self.weights.width as f64)];
        constants.extend(Quantised::constants(self.packed, threads));
        let norm = [
            Binding::read(Resource::Vector(self.norm)),
            Binding::write(Resource::Tensor(self.x.tensor)),
            Binding::write(Resource::Tensor(self.out.tensor)),
            Binding::write(self.packed.map_or(Resource::Scratch, |p| Resource::Tensor(p.words.tensor))),
        ];
        let mut stages = vec![Stage {
            shader: "combine_norm",
            constants,
            groups: vec![[&self.combine().read_bindings()[..], &norm].concat()],
        }];
        if let Some(unscaled) = self.unscaled {
            let mut constants = vec![("top_k", self.weights.width as f64)];
            constants.extend(Quantised::constants(self.packed, THREADS));
            let x = [Binding::write(Resource::Tensor(self.x.tensor))];
            let group = [&self.combine().read_bindings()[..], &x, &unscaled.written(&self.as_norm())].concat();
            stages.push(Stage { shader: "combine_unscaled", constants, groups: vec![group] });
            let with_down = self.down.as_ref().zip(self.down.and_then(|down| resident.expert_slab(down.layer)));
            stages.extend(with_down.map(|(down, slab)| down.stage(self, &unscaled, resident, slab)));
        }
        stages
    }

    fn expert_layer(&self) -> Option<usize> {
        self.down.map(|down| down.layer)
    }

    /// Stage 0 is `combine_norm`, stage 1 `combine_unscaled`, stage 2 `expert_down_combine`.
    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let down = self.down.filter(|_| step.phase == Phase::Decode);
        if let Some((down, slab)) = down.and_then(|down| Some((down, ExpertDown::slab(resident, down.layer)?))) {
            return out.push(down.dispatch(self, 2, slab));
        }
        let (shared_stride, gate_offset, gate_stride) = self.combine().shared_words();
        if self.unscaled(step).is_some() {
            let immediates = params! {
                width: (self.x.width / 4) as u32,
                routed_stride: (self.routed.stride / 4) as u32,
                weights_stride: self.weights.stride as u32,
                shared_stride,
                gate_offset,
                gate_stride,
            };
            let groups = (self.x.width / 4).div_ceil(THREADS);
            return out.push(Dispatch::new(1, 0, immediates, [groups as u32, 1, 1]));
        }
        let immediates = params! {
            width: (self.x.width / 4) as u32,
            x_stride: (self.x.stride / 4) as u32,
            routed_stride: (self.routed.stride / 4) as u32,
            weights_stride: self.weights.stride as u32,
            shared_stride,
            gate_offset,
            gate_stride,
            out_stride: (self.out.stride / 4) as u32,
            eps: self.eps.to_bits(),
            packed_stride: self.packed.map_or(0, |p| p.words.stride) as u32,
        };
        out.push(Dispatch::new(0, 0, immediates, [step.tokens as u32, 1, 1]));
    }
}
