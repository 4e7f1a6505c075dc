mod product;

use std::ops::Range;

use flashflood_formats::pack_row;
use flashflood_vectors::Instructions;
use rayon::prelude::*;

use product::{ON_MATRIX_UNITS, ONE_GATE_UP, ONE_TOKEN, Part, Product};

use super::{CooperativeTile, ExpertDown, Input, ProductShape, Quantised, Tile, Unscaled};
use crate::compute::cpu::{CpuMemory, at_least, by_token, expert_product};
use crate::compute::kernel::{Binding, Dispatch, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, View, expect};
use crate::compute::shaders::Form;
use crate::compute::{Phase, Step};
use crate::weights::{MatrixPlace, SlotLayout};

/// The router's choice becomes known to the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Layer among those with experts.
    pub layer: usize,
    /// `[tokens, top_k]` ids, a whole tensor.
    pub ids: View,
    /// A guess at those of the next layer, of the same shape.
    pub ahead: Option<View>,
}

/// The routed experts of one layer, for every (token, expert) pair: `gate_up` with SwiGLU, then `down`.
///
/// Each pair has its own row of the output and nothing is added up here, so results do not depend on the order in which
/// experts arrive, nor on how many fit in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Experts {
    /// Layer among those with experts.
    pub layer: usize,
    /// What a slot of this layer holds.
    pub slot: SlotLayout,
    /// `[tokens, hidden]`, a whole tensor
    pub x: Input,
    /// What it has beside where gate and up are two matrices.
    pub apart: Option<GateUpApart>,
    /// `[tokens * top_k, intermediate]`, a whole tensor; in 8 bits where `down` is multiplied with those
    pub hidden: Input,
    /// `[tokens * top_k, hidden]`, a whole tensor
    pub out: View,
    /// In decode `x` is yet to be scaled. Gate and up are one matrix then.
    pub unscaled: Option<Unscaled>,
    /// Whether an [`ExpertDown`] follows, which makes `out` needless where it is made.
    pub combined: bool,
}

/// Pairs that are computed before what was found for them is written where it belongs: of most models that is 30 MB.
const PAIRS_AT_ONCE: usize = 2048;

/// Of the pairs of one expert, row after row.
struct Found {
    /// `[pairs, gate | up]`
    products: Vec<f32>,
    hidden: Vec<f32>,
    out: Vec<f32>,
}

/// Gate and up of different formats: two products, and then SwiGLU. `x` of [`Experts`] is what gate is multiplied with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateUpApart {
    /// The same activations for up, as its format takes them.
    pub x: Input,
    /// The products of both side by side, `[tokens * top_k, 2 * intermediate]`, a whole tensor
    pub products: View,
}

/// One (token, expert) pair: the token, its row in `hidden` and `out`, and the slot (in its slab, on the GPU).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Pair {
    /// Token of the step.
    pub token: u32,
    /// `token * top_k + rank`.
    pub row: u32,
    /// Slot.
    pub slot: u32,
    /// Slab of the slot, on the GPU.
    pub slab: u32,
}

/// Pairs of one expert that a workgroup takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct ExpertTile {
    /// In the list of pairs.
    pub first_pair: u32,
    /// At most the tokens of the largest of [`Tile::EXPERT`]; none in room that no expert needs.
    pub pairs: u32,
    /// Slot, in its slab.
    pub slot: u32,
    /// Slab of the slot.
    pub slab: u32,
}

impl ExpertTile {
    /// Which of [`Tile::EXPERT`] it is for.
    pub(crate) fn kind(&self) -> usize {
        Tile::for_pairs(self.pairs as usize)
    }
}

impl Route {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        std::iter::once(&mut self.ids).chain(&mut self.ahead).map(|view| (Use::Read, view)).collect()
    }
}

impl Experts {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let mut all = vec![(Use::Read, self.x.view_mut())];
        if let Some(apart) = &mut self.apart {
            all.extend([(Use::Read, apart.x.view_mut()), (Use::Write, &mut apart.products)]);
        }
        all.extend([(Use::Write, self.hidden.view_mut()), (Use::Write, &mut self.out)]);
        all.extend(self.unscaled.iter_mut().map(|unscaled| unscaled.operand(Use::Read)));
        all
    }

    /// What it writes.
    pub(crate) fn outputs(&self) -> Vec<View> {
        let products = self.apart.map(|apart| apart.products);
        products.into_iter().chain([self.hidden.view(), self.out]).collect()
    }

    /// Whether the operands fit together.
    pub(crate) fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = "experts";
        let SlotLayout { gate, up, down, .. } = &self.slot;
        self.x.check(name, gate.format.interleave())?;
        self.hidden.check(name, down.format.interleave())?;
        expect(name, "columns of gate", self.x.cols(), gate.cols)?;
        expect(name, "rows of gate", self.hidden.cols(), gate.rows)?;
        expect(name, "rows of up", self.hidden.cols(), up.rows)?;
        expect(name, "columns of down", self.hidden.cols(), down.cols)?;
        expect(name, "rows of down", self.out.width, down.rows)?;
        expect(name, "columns of out", self.x.cols(), self.out.width)?;
        expect(name, "gate_up columns beyond blocks of 32", 0, gate.cols % 32)?;
        expect(name, "down columns beyond blocks of 32", 0, down.cols % 32)?;
        let matrices = if self.slot.gate_up().is_some() { 1 } else { 2 };
        expect(name, "matrices of gate and up", matrices, 1 + usize::from(self.apart.is_some()))?;
        if let Some(unscaled) = &self.unscaled {
            unscaled.check(name, recording, self.x.cols())?;
            expect(name, "matrices of gate and up that scale", 1, matrices)?;
        }
        if let Some(GateUpApart { x, products }) = &self.apart {
            x.check(name, up.format.interleave())?;
            expect(name, "columns of up", x.cols(), up.cols)?;
            expect(name, "columns of the products of gate and up", 2 * self.hidden.cols(), products.width)?;
            expect(name, "offsets of up", 0, x.view().offset + products.offset)?;
        }
        expect(name, "offsets", 0, self.x.view().offset + self.hidden.view().offset + self.out.offset)
    }

    /// The CPU twin for the pairs of some experts, whose slots hold these bytes. Experts are shared out among threads, and
    /// so are the rows of each: nobody waits for an expert to be done.
    pub(crate) fn run_on_cpu(&self, memory: &mut CpuMemory, experts: &[(&[Pair], &[u8])], step: &Step) {
        let scale = Unscaled::scale_on_cpu(self.unscaled, memory, step);
        let mut rest = experts;
        while !rest.is_empty() {
            let mut so_far = 0;
            let few = rest.iter().take_while(|(of_expert, _)| {
                let fits = so_far < PAIRS_AT_ONCE;
                so_far += of_expert.len();
                fits
            });
            let (now, after) = rest.split_at(few.count());
            rest = after;
            let pairs: usize = now.iter().map(|(of_expert, _)| of_expert.len()).sum();
            // a row of weights is done with faster than an element of anything else
            let each = (self.slot.gate.rows + self.slot.up.rows) * self.slot.gate.cols * pairs / now.len().max(1) / 8;
            let found = now.par_iter().with_min_len(at_least(each));
            let found: Vec<Found> = found.map(|(pairs, bytes)| self.of_expert(memory, pairs, bytes, scale)).collect();
            let keep = |memory: &mut CpuMemory, view: View, of: fn(&Found) -> &[f32]| {
                let mut tensor = memory.take(view.tensor);
                for ((pairs, _), found) in now.iter().zip(&found) {
                    for (pair, row) in pairs.iter().zip(of(found).chunks_exact(view.width)) {
                        tensor[pair.row as usize * view.stride..][..view.width].copy_from_slice(row);
                    }
                }
                memory.put_back(view.tensor, tensor);
            };
            if let Some(apart) = &self.apart {
                keep(memory, apart.products, |found| &found.products);
            }
            keep(memory, self.hidden.view(), |found| &found.hidden);
            keep(memory, self.out, |found| &found.out);
        }
    }

    /// What is computed for the pairs of one expert.
    fn of_expert(&self, memory: &CpuMemory, pairs: &[Pair], bytes: &[u8], scale: f32) -> Found {
        let (count, width) = (pairs.len(), self.hidden.cols());
        let mut products = vec![0.0; count * 2 * width];
        let mut multiply = |x: &Input, place: &MatrixPlace, column: usize| {
            let tokens = pairs.iter().map(|pair| pair.token as usize);
            let found = x.on_cpu(memory, tokens, |x| expert_product(place, bytes, x));
            by_token(&found, count, &mut products, 2 * width, |out, v| *out = v * scale, column);
        };
        match (&self.apart, self.slot.gate_up()) {
            (Some(apart), _) => {
                multiply(&self.x, &self.slot.gate, 0);
                multiply(&apart.x, &self.slot.up, width);
            }
            (None, both) => multiply(&self.x, &both.expect("check: without `apart` they are one matrix"), 0),
        }
        let row_width = self.hidden.view().width;
        let mut hidden = vec![0.0; count * row_width];
        let mut gated = vec![0.0; width];
        for (products, hidden) in products.chunks_exact(2 * width).zip(hidden.chunks_exact_mut(row_width)) {
            let (gate, up) = products.split_at(width);
            match self.hidden {
                Input::F32(_) => Instructions::best().swiglu(gate, up, hidden),
                Input::Int8(quantised) => {
                    Instructions::best().swiglu(gate, up, &mut gated);
                    pack_row(&gated, quantised.interleave, hidden);
                }
            }
        }
        let rows = hidden.chunks_exact(row_width).collect();
        let found = self.hidden.of_rows(rows, |x| expert_product(&self.slot.down, bytes, x));
        let mut out = vec![0.0; count * self.out.width];
        by_token(&found, count, &mut out, self.out.width, |out, v| *out = v, 0);
        Found { products, hidden, out }
    }

    /// What it does on the GPU, in this order: a stage each.
    fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let SlotLayout { gate, up, down, .. } = self.slot;
        let (hidden, width) = (self.hidden.view(), self.hidden.cols());
        let of_pairs = ["expert_down", "expert_matmul_down", "expert_matmul_cooperative_down"];
        let first = match self.apart {
            None => {
                let place = self.slot.gate_up().unwrap_or(gate);
                let kernels = [ONE_GATE_UP, "expert_matmul_gate_up", "expert_matmul_cooperative_gate_up"];
                [Some(Part::Product(Product { kernels, place, x: self.x, rows: width, out: hidden })), None, None]
            }
            Some(GateUpApart { x: of_up, products }) => {
                let half = |column| products.columns(column, width);
                let product = |place, x, out| Part::Product(Product { kernels: of_pairs, place, x, rows: width, out });
                [
                    Some(product(gate, self.x, half(0))),
                    Some(product(up, of_up, half(width))),
                    Some(Part::Swiglu(products)),
                ]
            }
        };
        let down = Product { kernels: of_pairs, place: down, x: self.hidden, rows: self.out.width, out: self.out };
        first.into_iter().flatten().chain([Part::Product(down)])
    }

    /// The first matrix that `shader` multiplies.
    pub(crate) fn place_of(&self, shader: &str) -> Option<MatrixPlace> {
        self.parts().find_map(|part| match part {
            Part::Product(product) => {
                let is_one_of = |which| product.shape(which).shader() == shader;
                [ONE_TOKEN, product.many(None), product.many(Some(product.x.form()))]
                    .into_iter()
                    .any(is_one_of)
                    .then_some(product.place)
            }
            Part::Swiglu(_) => None,
        })
    }

    /// Stages of one token, and of each of [`Tile::EXPERT`].
    pub(crate) fn stages_of_a_phase(&self) -> usize {
        self.parts().count()
    }

    /// Its products of one token, with the number of their stage.
    pub(crate) fn products(&self) -> impl Iterator<Item = (usize, ProductShape)> + use<> {
        self.parts().enumerate().filter_map(|(stage, part)| match part {
            Part::Product(product) => Some((stage, product.shape(ONE_TOKEN))),
            Part::Swiglu(_) => None,
        })
    }

    /// Stage 0 is `expert_gate_up`, stage 1 `expert_down`. Then come `expert_matmul_gate_up` and `expert_matmul_down` for
    /// each of [`Tile::EXPERT`]. Where gate and up are apart, each is an `expert_down` or `expert_matmul_down` of tokens,
    /// and `expert_swiglu` follows. Where matrix units make the products of many tokens, these are
    /// `expert_matmul_cooperative_*`. One group per slab.
    pub(crate) fn stages(&self, resident: &dyn ResidentLayout, slabs: usize) -> Vec<Stage> {
        let mut stages: Vec<Stage> = self
            .parts()
            .map(|part| match part {
                Part::Product(product) => {
                    let shape = product.shape(ONE_TOKEN);
                    self.product_stage(&product, shape, shape.constants(resident.team(&shape)), slabs)
                }
                Part::Swiglu(products) => self.swiglu_stage(products, slabs),
            })
            .collect();
        for kind in 0..Tile::EXPERT.len() {
            stages.extend(self.parts().map(|part| match part {
                Part::Product(product) => {
                    let shape = product.shape(product.many(resident.cooperative()));
                    let constants = product.tile_constants(shape, kind);
                    self.product_stage(&product, shape, constants, slabs)
                }
                Part::Swiglu(products) => self.swiglu_stage(products, slabs),
            }));
        }
        stages
    }

    fn product_stage(
        &self,
        product: &Product,
        shape: ProductShape,
        mut constants: Vec<(&'static str, f64)>,
        slabs: usize,
    ) -> Stage {
        let with_tiles = shape.kernel != product.kernels[ONE_TOKEN];
        let of_slab = |slab| {
            let mut group = vec![
                Binding::read(Resource::Tensor(product.x.view().tensor)),
                Binding::read(Resource::Slab(slab)),
                Binding::write(Resource::Tensor(product.out.tensor)),
                Binding::read(Resource::Pairs),
            ];
            group.extend(with_tiles.then(|| Binding::read(Resource::Tiles)));
            if shape.kernel == ONE_GATE_UP {
                group.push(Unscaled::binding(self.unscaled, Resource::Pairs));
            }
            group.extend(Binding::codebook(shape.format));
            group
        };
        if shape.kernel == ONE_GATE_UP {
            constants.extend(Unscaled::constants(self.unscaled));
        }
        match self.hidden {
            Input::Int8(quantised) if product.gates() => {
                constants.extend([("packed", 1.0), ("interleave", quantised.interleave as f64)]);
            }
            _ => {}
        }
        if self.apart.is_some_and(|apart| apart.products.tensor == product.out.tensor) {
            constants.extend([("of_tokens", 1.0), ("out_column", product.out.offset as f64)]);
        }
        Stage { shader: shape.shader(), constants, groups: (0..slabs).map(of_slab).collect() }
    }

    /// Its groups are alike: it reads no weights.
    fn swiglu_stage(&self, products: View, slabs: usize) -> Stage {
        let group = vec![
            Binding::read(Resource::Tensor(products.tensor)),
            Binding::write(Resource::Tensor(self.hidden.view().tensor)),
            Binding::read(Resource::Pairs),
        ];
        let constants = Quantised::constants(self.hidden.packed(), SWIGLU_THREADS);
        Stage { shader: "expert_swiglu", constants, groups: vec![group; slabs] }
    }

    /// Dispatches for `pairs` pairs from `first_pair` on; those of other slabs are passed over. [`join`](Self::join)
    /// completes those of a batch.
    pub(crate) fn dispatch(
        &self,
        resident: &dyn ResidentLayout,
        slab: usize,
        first_pair: usize,
        pairs: usize,
        slot_bytes: usize,
        out: &mut Vec<Dispatch>,
    ) {
        let is_combined = self.combined && ExpertDown::slab(resident, self.layer).is_some();
        let parts = self.stages_of_a_phase() - usize::from(is_combined);
        for (stage, part) in self.parts().enumerate().take(parts) {
            let Part::Product(product) = part else { continue };
            let shape = product.shape(ONE_TOKEN);
            let (gx, gy) = shape.row_groups(resident.team(&shape), product.rows);
            let Product { place, x, rows, out: y, .. } = product;
            let immediates = params! {
                rows: rows as u32,
                blocks: (place.cols / 32) as u32,
                grid_x: gx,
                first_pair: first_pair as u32,
                slab: slab as u32,
                x_stride: (x.view().stride / 4) as u32,
                out_stride: y.stride as u32,
                slot_words: (slot_bytes / 4) as u32,
                stream_0: (place.streams[0] / 4) as u32,
                stream_1: (place.streams[1] / 4) as u32,
                stream_2: (place.streams[2] / 4) as u32,
            };
            let weight_bytes = (pairs * place.bytes()) as u64;
            out.push(Dispatch { weight_bytes, ..Dispatch::new(stage, slab, immediates, [gx, gy, pairs as u32]) });
        }
    }

    /// Dispatches for the tiles `tiles` of the buffer, all in `slab` and for number `kind` of [`Tile::EXPERT`].
    /// [`join`](Self::join) completes those of a batch.
    pub(crate) fn dispatch_tiles(
        &self,
        cooperative: Option<Form>,
        slab: usize,
        kind: usize,
        tiles: Range<usize>,
        slot_bytes: usize,
        out: &mut Vec<Dispatch>,
    ) {
        let first_stage = (1 + kind) * self.stages_of_a_phase();
        for (i, part) in self.parts().enumerate() {
            let Part::Product(product) = part else { continue };
            let Product { place, x, rows, out: y, .. } = product;
            let grid = match product.many(cooperative) {
                ON_MATRIX_UNITS => CooperativeTile::expert(x.form())[kind].grid_of(place.rows, tiles.len()),
                _ => Tile::EXPERT[kind].grid(place.rows, tiles.len()),
            };
            let immediates = params! {
                rows: rows as u32,
                blocks: (place.cols / 32) as u32,
                grid_x: grid[0],
                first_tile: tiles.start as u32,
                slab: slab as u32,
                x_stride: (x.view().stride / 4) as u32,
                out_stride: y.stride as u32,
                slot_words: (slot_bytes / 4) as u32,
                stream_0: (place.streams[0] / 4) as u32,
                stream_1: (place.streams[1] / 4) as u32,
                stream_2: (place.streams[2] / 4) as u32,
            };
            let weight_bytes = (tiles.len() * place.bytes()) as u64;
            out.push(Dispatch { weight_bytes, ..Dispatch::new(first_stage + i, slab, immediates, grid) });
        }
    }

    /// Completes `out`, the dispatches of a batch that is the `pairs` pairs from `first_pair` on: those of a product,
    /// of all slabs and tiles, come before those of the next, and run side by side: each pair has its own row. Where gate
    /// and up are apart, the SwiGLU of all pairs goes between.
    pub(crate) fn join(&self, phase: Phase, first_pair: usize, pairs: usize, out: &mut Vec<Dispatch>) {
        let stages = self.stages_of_a_phase();
        self.push_swiglu(phase, first_pair, pairs, out);
        // stable: those of a stage stay as they are
        out.sort_by_key(|dispatch| dispatch.stage % stages);
        for at in 1..out.len() {
            out[at].beside = out[at].stage % stages == out[at - 1].stage % stages;
        }
    }

    fn push_swiglu(&self, phase: Phase, first_pair: usize, pairs: usize, out: &mut Vec<Dispatch>) {
        let stages = self.stages_of_a_phase();
        let swiglu = self.parts().enumerate().find_map(|(stage, part)| match part {
            Part::Swiglu(products) => Some((stage, products)),
            Part::Product(_) => None,
        });
        let Some((stage, products)) = swiglu else { return };
        let (width, stage) = (self.hidden.cols(), if phase == Phase::Decode { stage } else { stages + stage });
        let each = if self.hidden.packed().is_some() { 4 } else { 1 };
        let groups = width.div_ceil(each * SWIGLU_THREADS);
        // a dimension of a grid holds 65,535
        for first in (0..pairs).step_by(MOST_SWIGLU) {
            let immediates = params! {
                width: width as u32,
                gate_up_offset: 0,
                gate_up_stride: products.stride as u32,
                hidden_stride: self.hidden.view().stride as u32,
                first_pair: (first_pair + first) as u32,
            };
            let rows = MOST_SWIGLU.min(pairs - first);
            out.push(Dispatch::new(stage, 0, immediates, [groups as u32, rows as u32, 1]));
        }
    }
}

/// Elements, in 8 bits words, that a workgroup of `expert_swiglu` makes: one a thread.
const SWIGLU_THREADS: usize = 64;
/// Pairs of a dispatch of it.
const MOST_SWIGLU: usize = 32_768;
