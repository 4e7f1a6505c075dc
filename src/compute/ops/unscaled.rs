use super::{Quantised, RmsNorm};
use crate::compute::cpu::{CpuMemory, row, row_mut};
use crate::compute::kernel::{Binding, Resource};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, Rows, ShapeError, View, expect};
use crate::compute::{Phase, Step};

/// A token whose norm is taken in two halves. What writes its row multiplies it with the weights of the norm and leaves the
/// sums of squares of all groups of columns; what multiplies that with a matrix divides by the root of their mean. So no
/// kernel waits for a whole row: each group is written, and rounded to 8 bits, by itself, whose scales are all that the
/// division would change.
///
/// Decode alone does so: a prompt has rows enough for a kernel that norms them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unscaled {
    /// `[tokens, columns / 32]`, a whole tensor
    pub squares: View,
    /// Bits of what is added to the mean of the squares.
    eps: u32,
}

/// Columns of a group: those that share a scale in 8 bits.
pub(super) const COLUMNS: usize = 32;

impl Unscaled {
    /// Whether a device binds as many buffers as `combine_unscaled` has; others of the program's kernels have 8.
    pub(crate) fn fits(limits: &wgpu::Limits) -> bool {
        limits.max_storage_buffers_per_shader_stage >= 9
    }

    /// A tensor for the sums of rows as wide as `norm` has them, where these are whole groups.
    pub(crate) fn new(recording: &mut Recording, norm: &View, eps: f32) -> Option<Unscaled> {
        let is_whole = norm.width.is_multiple_of(COLUMNS) && norm.offset == 0;
        let label = format!("{}.squares", recording.spec(norm.tensor).label);
        is_whole.then(|| Unscaled::of(recording.tensor(label, 1, norm.width / COLUMNS), eps))
    }

    /// What was left in `squares`.
    pub(crate) fn of(squares: View, eps: f32) -> Unscaled {
        Unscaled { squares, eps: eps.to_bits() }
    }

    fn eps(&self) -> f32 {
        f32::from_bits(self.eps)
    }

    pub(super) fn operand(&mut self, how: Use) -> Operand<'_> {
        (how, &mut self.squares)
    }

    /// WGSL constants of what scales, or of what has nothing to scale.
    pub(super) fn constants(of: Option<Unscaled>) -> [(&'static str, f64); 2] {
        let groups = of.map_or(0, |unscaled| unscaled.squares.width);
        [("squares_groups", groups as f64), ("squares_eps", of.map_or(0.0, |unscaled| f64::from(unscaled.eps())))]
    }

    /// The binding of what scales; without it another that is read, and that the kernel does not touch.
    pub(super) fn binding(of: Option<Unscaled>, other: Resource) -> Binding {
        Binding::read(of.map_or(other, |unscaled| Resource::Tensor(unscaled.squares.tensor)))
    }

    /// What products of the row are multiplied with: 1 in a prompt, and without an `Unscaled`.
    pub(super) fn scale_on_cpu(of: Option<Unscaled>, memory: &CpuMemory, step: &Step) -> f32 {
        let Some(unscaled) = of.filter(|_| step.phase == Phase::Decode) else { return 1.0 };
        let squares = row(memory.tensor(unscaled.squares.tensor), unscaled.squares, 0);
        let mean = squares.iter().sum::<f32>() / (squares.len() * COLUMNS) as f32;
        1.0 / (mean + unscaled.eps()).sqrt()
    }

    pub(super) fn check(&self, op: &'static str, recording: &Recording, columns: usize) -> Result<(), ShapeError> {
        expect(op, "groups of squares", columns, self.squares.width * COLUMNS)?;
        expect(op, "offset of squares", 0, self.squares.offset)?;
        let per_token = usize::from(recording.spec(self.squares.tensor).rows == Rows::PerToken(1));
        expect(op, "rows of squares for each token", 1, per_token)
    }

    /// The first half of `norm`, of the first token.
    pub(super) fn write_on_cpu(&self, memory: &mut CpuMemory, norm: &RmsNorm) {
        let mut out = memory.take(norm.out.tensor);
        let mut squares = memory.take(self.squares.tensor);
        let x = row(memory.tensor(norm.x.tensor), norm.x, 0);
        for (sum, x) in squares.iter_mut().zip(x.chunks_exact(COLUMNS)) {
            *sum = x.iter().map(|x| x * x).sum();
        }
        let weighed = x.iter().zip(memory.vector(norm.weight)).map(|(x, weight)| x * weight);
        row_mut(&mut out, norm.out).iter_mut().zip(weighed).for_each(|(out, v)| *out = v);
        if let Some(packed) = norm.packed {
            let mut words = memory.take(packed.words.tensor);
            packed.pack_rows_on_cpu(&mut words, &out, norm.out, 0..1);
            memory.put_back(packed.words.tensor, words);
        }
        memory.put_back(self.squares.tensor, squares);
        memory.put_back(norm.out.tensor, out);
    }

    /// The bindings that the first half of `norm` writes, in the order of the kernels, behind the weights of the norm.
    pub(super) fn written(&self, norm: &RmsNorm) -> [Binding; 4] {
        [
            Binding::read(Resource::Vector(norm.weight)),
            Binding::write(Resource::Tensor(norm.out.tensor)),
            Binding::write(Resource::Tensor(self.squares.tensor)),
            Binding::write(norm.packed.map_or(Resource::Scratch, |p: Quantised| Resource::Tensor(p.words.tensor))),
        ]
    }
}
