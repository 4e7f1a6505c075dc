use flashflood_formats::pack_row;

use super::{Input, ProductShape, Tile, silu};
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, expert_product};
use crate::compute::kernel::{Binding, Dispatch, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, View, expect};
use crate::weights::{MatrixPlace, SlotLayout, WeightFormat};

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
    /// `[tokens * top_k, intermediate]`, a whole tensor; in 8 bits where `down` is multiplied with those
    pub hidden: Input,
    /// `[tokens * top_k, hidden]`, a whole tensor
    pub out: View,
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
    /// One at least, and at most the tokens of the largest of [`Tile::EXPERT`].
    pub pairs: u32,
    /// Slot, in its slab.
    pub slot: u32,
    /// Slab of the slot.
    pub slab: u32,
}

impl ExpertTile {
    /// Which of [`Tile::EXPERT`] it is for.
    pub(crate) fn kind(&self) -> usize {
        Tile::for_tokens(&Tile::EXPERT, self.pairs as usize)
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
        vec![(Use::Read, self.x.view_mut()), (Use::Write, self.hidden.view_mut()), (Use::Write, &mut self.out)]
    }

    /// Whether the operands fit together.
    pub(crate) fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        let name = "experts";
        self.x.check(name, self.slot.gate_up.format.interleave())?;
        self.hidden.check(name, self.slot.down.format.interleave())?;
        expect(name, "columns of gate_up", self.x.cols(), self.slot.gate_up.cols)?;
        expect(name, "rows of gate_up", 2 * self.hidden.cols(), self.slot.gate_up.rows)?;
        expect(name, "columns of down", self.hidden.cols(), self.slot.down.cols)?;
        expect(name, "rows of down", self.out.width, self.slot.down.rows)?;
        expect(name, "columns of out", self.x.cols(), self.out.width)?;
        expect(name, "gate_up columns beyond blocks of 32", 0, self.slot.gate_up.cols % 32)?;
        expect(name, "down columns beyond blocks of 32", 0, self.slot.down.cols % 32)?;
        expect(name, "offsets", 0, self.x.view().offset + self.hidden.view().offset + self.out.offset)
    }

    /// The CPU twin for the pairs of one expert, whose slot holds `bytes`.
    pub(crate) fn run_on_cpu(&self, memory: &mut CpuMemory, pairs: &[Pair], bytes: &[u8], _: &Step) {
        let stride = self.hidden.view().stride;
        let mut hidden = memory.take(self.hidden.view().tensor);
        let tokens = pairs.iter().map(|p| p.token as usize);
        let products = self.x.on_cpu(memory, tokens, |x| expert_product(&self.slot.gate_up, bytes, x));
        let width = self.hidden.cols();
        for (n, pair) in pairs.iter().enumerate() {
            let gated = |i: usize| silu(products[i * pairs.len() + n]) * products[(width + i) * pairs.len() + n];
            let gated: Vec<f32> = (0..width).map(gated).collect();
            let row = &mut hidden[pair.row as usize * stride..][..stride];
            match self.hidden {
                Input::F32(_) => row[..width].copy_from_slice(&gated),
                Input::Int8(quantised) => pack_row(&gated, quantised.interleave, row),
            }
        }
        memory.put_back(self.hidden.view().tensor, hidden);
        let mut out = memory.take(self.out.tensor);
        let rows = pairs.iter().map(|p| p.row as usize);
        let products = self.hidden.on_cpu(memory, rows, |x| expert_product(&self.slot.down, bytes, x));
        for (n, pair) in pairs.iter().enumerate() {
            let row = &mut out[pair.row as usize * self.out.stride..][..self.out.width];
            for (r, o) in row.iter_mut().enumerate() {
                *o = products[r * pairs.len() + n];
            }
        }
        memory.put_back(self.out.tensor, out);
    }

    /// Its products of one token, one a stage.
    pub(crate) fn products(&self) -> [ProductShape; 2] {
        self.shapes(["expert_gate_up", "expert_down"])
    }

    fn shapes(&self, [gate_up, down]: [&'static str; 2]) -> [ProductShape; 2] {
        let shape = |kernel, place: &MatrixPlace, x: &Input, rows| {
            ProductShape::new(kernel, x.form(), place.format, rows, place.cols)
        };
        let width = self.hidden.cols();
        [shape(gate_up, &self.slot.gate_up, &self.x, width), shape(down, &self.slot.down, &self.hidden, self.out.width)]
    }

    /// Stage 0 is `expert_gate_up`, stage 1 `expert_down`. Then come `expert_matmul_gate_up` and `expert_matmul_down` for
    /// each of [`Tile::EXPERT`]. One group per slab.
    pub(crate) fn stages(&self, resident: &dyn ResidentLayout, slabs: usize) -> Vec<Stage> {
        let hidden = self.hidden.view();
        let groups = |x: View, out: View, format: WeightFormat, with_tiles: bool| -> Vec<Vec<Binding>> {
            let of_slab = |slab| {
                let mut group = vec![
                    Binding::read(Resource::Tensor(x.tensor)),
                    Binding::read(Resource::Slab(slab)),
                    Binding::write(Resource::Tensor(out.tensor)),
                    Binding::read(Resource::Pairs),
                ];
                group.extend(with_tiles.then(|| Binding::read(Resource::Tiles)));
                group.extend(Binding::codebook(format));
                group
            };
            (0..slabs).map(of_slab).collect()
        };
        let pair = |[gate_up, down]: [ProductShape; 2], [first, second]: [Vec<(&'static str, f64)>; 2], with_tiles| {
            let mut stages = [
                Stage {
                    shader: gate_up.shader(),
                    constants: first,
                    groups: groups(self.x.view(), hidden, gate_up.format, with_tiles),
                },
                Stage {
                    shader: down.shader(),
                    constants: second,
                    groups: groups(hidden, self.out, down.format, with_tiles),
                },
            ];
            if let Input::Int8(quantised) = self.hidden {
                stages[0].constants.extend([("packed", 1.0), ("interleave", quantised.interleave as f64)]);
            }
            stages
        };
        let one = self.products();
        let mut stages: Vec<Stage> = pair(one, one.map(|shape| shape.constants(resident.team(&shape))), false).into();
        let many = self.shapes(["expert_matmul_gate_up", "expert_matmul_down"]);
        for tile in Tile::EXPERT {
            let mut of_tile = pair(many, many.map(|shape| shape.tile_constants(tile)), true);
            of_tile[0].constants.push(("quantisers", tile.threads() as f64));
            stages.extend(of_tile);
        }
        stages
    }

    /// Dispatches for `pairs` pairs from `first_pair` on; those of other slabs are passed over.
    pub(crate) fn dispatch(
        &self,
        resident: &dyn ResidentLayout,
        slab: usize,
        first_pair: usize,
        pairs: usize,
        slot_bytes: usize,
        out: &mut Vec<Dispatch>,
    ) {
        let [gate_up, down] = self.products();
        let mut one = |stage, shape: ProductShape, place: &MatrixPlace, rows: usize, x: View, y: View| {
            let (gx, gy) = shape.row_groups(resident.team(&shape), rows);
            let immediates = params! {
                rows: rows as u32,
                blocks: (place.cols / 32) as u32,
                grid_x: gx,
                first_pair: first_pair as u32,
                slab: slab as u32,
                x_stride: (x.stride / 4) as u32,
                out_stride: y.stride as u32,
                slot_words: (slot_bytes / 4) as u32,
                stream_0: (place.streams[0] / 4) as u32,
                stream_1: (place.streams[1] / 4) as u32,
                stream_2: (place.streams[2] / 4) as u32,
            };
            let weight_bytes = (pairs * place.bytes()) as u64;
            out.push(Dispatch { stage, group: slab, immediates, grid: [gx, gy, pairs as u32], weight_bytes });
        };
        let hidden = self.hidden.view();
        one(0, gate_up, &self.slot.gate_up, self.hidden.cols(), self.x.view(), hidden);
        one(1, down, &self.slot.down, self.out.width, hidden, self.out);
    }
    /// Dispatches for `tiles` tiles from `first_tile` on, all in `slab` and for number `kind` of [`Tile::EXPERT`].
    pub(crate) fn dispatch_tiles(
        &self,
        slab: usize,
        kind: usize,
        first_tile: usize,
        tiles: usize,
        slot_bytes: usize,
        out: &mut Vec<Dispatch>,
    ) {
        let mut one = |stage, place: &MatrixPlace, rows: usize, x: View, y: View| {
            let grid = Tile::EXPERT[kind].grid(place.rows, tiles);
            let immediates = params! {
                rows: rows as u32,
                blocks: (place.cols / 32) as u32,
                grid_x: grid[0],
                first_tile: first_tile as u32,
                x_stride: (x.stride / 4) as u32,
                out_stride: y.stride as u32,
                slot_words: (slot_bytes / 4) as u32,
                stream_0: (place.streams[0] / 4) as u32,
                stream_1: (place.streams[1] / 4) as u32,
                stream_2: (place.streams[2] / 4) as u32,
            };
            let weight_bytes = (tiles * place.bytes()) as u64;
            out.push(Dispatch { stage, group: slab, immediates, grid, weight_bytes });
        };
        let (hidden, stage) = (self.hidden.view(), 2 + 2 * kind);
        one(stage, &self.slot.gate_up, self.hidden.cols(), self.x.view(), hidden);
        one(stage + 1, &self.slot.down, self.out.width, hidden, self.out);
    }
}
