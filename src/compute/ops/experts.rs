use super::matvec::{matrix_constants, matrix_shader, row_groups};
use super::silu;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, expert_product};
use crate::compute::kernel::{Access, Binding, Dispatch, Immediates, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, View, expect};
use crate::experts::{MatrixPlace, SlotLayout};

/// The router's choice becomes known to the host.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Layer.
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
pub struct Experts {
    /// Layer.
    pub layer: usize,
    /// What a slot of this layer holds.
    pub slot: SlotLayout,
    /// `[tokens, hidden]`, a whole tensor
    pub x: View,
    /// `[tokens * top_k, intermediate]`, a whole tensor
    pub hidden: View,
    /// `[tokens * top_k, hidden]`, a whole tensor
    pub out: View,
}

/// One (token, expert) pair: the token, its row in `hidden` and `out`, and the slot (in its slab, on the GPU).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Pair {
    /// Token of the step.
    pub token: u32,
    /// `token * top_k + rank`.
    pub row: u32,
    /// Slot.
    pub slot: u32,
    /// Slab of the slot, on the GPU.
    pub slab: u32,
}

impl Experts {
    /// Whether the operands fit together.
    pub fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        let name = "experts";
        expect(name, "columns of gate_up", self.x.width, self.slot.gate_up.cols)?;
        expect(name, "rows of gate_up", 2 * self.hidden.width, self.slot.gate_up.rows)?;
        expect(name, "columns of down", self.hidden.width, self.slot.down.cols)?;
        expect(name, "rows of down", self.out.width, self.slot.down.rows)?;
        expect(name, "columns of out", self.x.width, self.out.width)?;
        expect(name, "gate_up columns beyond blocks of 32", 0, self.slot.gate_up.cols % 32)?;
        expect(name, "down columns beyond blocks of 32", 0, self.slot.down.cols % 32)?;
        expect(name, "offsets", 0, self.x.offset + self.hidden.offset + self.out.offset)
    }

    /// The CPU twin for the pairs of one expert, whose slot holds `bytes`.
    pub fn run_on_cpu(&self, memory: &mut CpuMemory, pairs: &[Pair], bytes: &[u8], _: &Step) {
        let mut hidden = memory.take(self.hidden.tensor);
        let mut out = memory.take(self.out.tensor);
        let x = memory.tensor(self.x.tensor);
        let rows: Vec<&[f32]> = pairs.iter().map(|p| &x[p.token as usize * self.x.stride..][..self.x.width]).collect();
        let products = expert_product(&self.slot.gate_up, bytes, &rows);
        let width = self.hidden.width;
        for (n, pair) in pairs.iter().enumerate() {
            let row = &mut hidden[pair.row as usize * self.hidden.stride..][..width];
            for (i, h) in row.iter_mut().enumerate() {
                *h = silu(products[i * pairs.len() + n]) * products[(width + i) * pairs.len() + n];
            }
        }
        let rows: Vec<&[f32]> = pairs.iter().map(|p| &hidden[p.row as usize * self.hidden.stride..][..width]).collect();
        let products = expert_product(&self.slot.down, bytes, &rows);
        for (n, pair) in pairs.iter().enumerate() {
            let row = &mut out[pair.row as usize * self.out.stride..][..self.out.width];
            for (r, o) in row.iter_mut().enumerate() {
                *o = products[r * pairs.len() + n];
            }
        }
        memory.put_back(self.out.tensor, out);
        memory.put_back(self.hidden.tensor, hidden);
    }

    /// Stage 0 is `expert_gate_up`, stage 1 `expert_down`; one group per slab.
    pub fn stages(&self, slabs: usize) -> Vec<Stage> {
        let stage = |kernel, place: &MatrixPlace, x: View, out: View| Stage {
            shader: matrix_shader(kernel, place.format),
            constants: matrix_constants(place.format, place.cols),
            groups: (0..slabs)
                .map(|slab| {
                    vec![
                        Binding::read(Resource::Tensor(x.tensor)),
                        Binding::read(Resource::Slab(slab)),
                        Binding(Access::Write, Resource::Tensor(out.tensor)),
                        Binding::read(Resource::Pairs),
                    ]
                })
                .collect(),
        };
        vec![
            stage("expert_gate_up", &self.slot.gate_up, self.x, self.hidden),
            stage("expert_down", &self.slot.down, self.hidden, self.out),
        ]
    }

    /// Dispatches for `pairs` pairs from `first_pair` on; those of other slabs are passed over.
    pub fn dispatch(&self, slab: usize, first_pair: usize, pairs: usize, slot_bytes: usize, out: &mut Vec<Dispatch>) {
        let mut one = |stage, place: &MatrixPlace, rows: usize, rows_per_team, x: View, y: View| {
            let (gx, gy) = row_groups(rows, place.cols, rows_per_team);
            let immediates = Immediates::new(&[
                rows as u32,
                (place.cols / 32) as u32,
                gx,
                first_pair as u32,
                slab as u32,
                (x.stride / 4) as u32,
                y.stride as u32,
                (slot_bytes / 4) as u32,
                (place.codes / 4) as u32,
                (place.scales / 4) as u32,
                (place.biases / 4) as u32,
            ]);
            let weight_bytes = (pairs * place.format.matrix_bytes(place.rows, place.cols)) as u64;
            out.push(Dispatch { stage, group: slab, immediates, grid: [gx, gy, pairs as u32], weight_bytes });
        };
        one(0, &self.slot.gate_up, self.hidden.width, 2, self.x, self.hidden);
        one(1, &self.slot.down, self.out.width, 4, self.hidden, self.out);
    }
}
