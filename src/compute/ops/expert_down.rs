use super::{CombineNorm, ProductShape, Quantised, Team, Unscaled};
use crate::compute::kernel::{Binding, Dispatch, ExpertSlab, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{ShapeError, View, expect};
use crate::compute::shaders::Form;
use crate::weights::MatrixPlace;

/// Rows of the output that a workgroup makes: those that share a scale in 8 bits.
const ROWS: usize = 32;
/// Rows of an expert that a team shares.
const SUMS: usize = 4;
/// Most threads of a workgroup.
const THREADS: usize = 512;
/// Storage buffers that the kernel binds, with the table of a format.
const BUFFERS: u32 = 12;

/// The last product of the experts in front of a [`CombineNorm`]. Where a device has all experts of the layer, and in one slab,
/// it makes this and the sum over the experts in one kernel, for a token of decode: each would wait for the one before. The
/// outputs of the experts are not written then. The 35B shape comes from 337 to 347 tokens/s by it on an H200, and with
/// activations in f32 from 249 to 246: those keep two kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpertDown {
    /// Layer among those with experts.
    pub layer: usize,
    /// `down` in the slot.
    pub place: MatrixPlace,
    /// `[tokens * top_k, intermediate]`
    pub hidden: Quantised,
}

impl ExpertDown {
    /// Whether a device binds as many buffers as the kernel has.
    pub(crate) fn fits(limits: &wgpu::Limits) -> bool {
        limits.max_storage_buffers_per_shader_stage >= BUFFERS
    }

    pub(super) fn operand(&mut self) -> Operand<'_> {
        (Use::Read, &mut self.hidden.words)
    }

    pub(super) fn check(&self, op: &'static str, combine: &CombineNorm) -> Result<(), ShapeError> {
        let (width, top_k) = (combine.x.width, combine.weights.width);
        expect(op, "rows of down", width, self.place.rows)?;
        expect(op, "columns of down", self.place.cols, self.hidden.cols)?;
        expect(op, "columns beyond groups of 32", 0, width % ROWS)?;
        expect(op, "rows of hidden values per token", top_k, self.hidden.words.rows_per_token)
    }

    /// Where the experts of a layer are, if the kernel is to take them for a token: then nobody else makes their last product.
    pub(super) fn slab(resident: &dyn ResidentLayout, layer: usize) -> Option<ExpertSlab> {
        resident.expert_slab(layer).filter(|_| resident.all_resident())
    }

    fn shape(&self) -> ProductShape {
        let place = self.place;
        ProductShape::new("expert_down_combine", Form::Int8, place.format, place.rows, place.cols)
    }

    /// WGSL constants of its products, for a device of workgroups of at most so many threads, and those threads: of as many
    /// experts of a token at a time as they are enough for, and as many each time.
    pub(crate) fn constants(shape: &ProductShape, top_k: usize, most: usize) -> (Vec<(&'static str, f64)>, usize) {
        let of_expert = shape.lanes() * ROWS / SUMS;
        // the table of a format, and rows of many experts, take as much of 16 KiB as some of the threads would
        let is_full = shape.format.codebook().is_some() || top_k > 24;
        let own = if is_full { THREADS / 2 } else { THREADS };
        let most = (most.min(own) / of_expert).max(1);
        let at_once = top_k.div_ceil(top_k.div_ceil(most));
        let threads = at_once * of_expert;
        let mut constants = shape.constants(Team { threads, sums: SUMS });
        constants.extend([("top_k", top_k as f64), ("at_once", at_once as f64)]);
        (constants, threads)
    }

    /// Of `combine`, whose norm leaves `unscaled`.
    pub(super) fn stage(
        &self,
        combine: &CombineNorm,
        unscaled: &Unscaled,
        resident: &dyn ResidentLayout,
        slab: ExpertSlab,
    ) -> Stage {
        let (shape, top_k) = (self.shape(), combine.weights.width);
        let (mut constants, threads) = Self::constants(&shape, top_k, resident.threads());
        constants.extend(Quantised::constants(combine.packed, threads));
        // what is not there is not read
        let (shared, gate) = combine.shared.unwrap_or((combine.weights, None));
        let read = |view: View| Binding::read(Resource::Tensor(view.tensor));
        let mut group = vec![
            read(self.hidden.words),
            Binding::read(Resource::Slab(slab.number)),
            Binding::read(Resource::Pairs),
            read(combine.weights),
            read(shared),
            read(gate.unwrap_or(combine.weights)),
            Binding::write(Resource::Tensor(combine.x.tensor)),
        ];
        group.extend(unscaled.written(&combine.as_norm()));
        group.extend(Binding::codebook(shape.format));
        Stage { shader: shape.shader(), constants, groups: vec![group] }
    }

    /// Stage `stage` of `combine`.
    pub(super) fn dispatch(&self, combine: &CombineNorm, stage: usize, slab: ExpertSlab) -> Dispatch {
        let ExpertDown { place, hidden, .. } = self;
        let (shared_stride, gate_offset, gate_stride) = combine.shared_words();
        let immediates = params! {
            rows: place.rows as u32,
            blocks: (place.cols / 32) as u32,
            x_stride: (hidden.words.stride / 4) as u32,
            shared_stride,
            gate_offset,
            gate_stride,
            slot_words: (slab.slot_bytes / 4) as u32,
            stream_0: (place.streams[0] / 4) as u32,
            stream_1: (place.streams[1] / 4) as u32,
            stream_2: (place.streams[2] / 4) as u32,
        };
        let weight_bytes = (combine.weights.width * place.bytes()) as u64;
        let groups = place.rows / ROWS;
        Dispatch { weight_bytes, ..Dispatch::new(stage, 0, immediates, [groups as u32, 1, 1]) }
    }
}
