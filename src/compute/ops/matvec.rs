use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, matrix_product, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage, fold};
use crate::compute::recording::{MatrixId, Recording, Rows, ShapeError, View, expect, shape_error};
use crate::compute::shaders;
use crate::formats::{ScaleType, WeightFormat};

/// Product of a weight matrix with the activations of one token (`matvec`) or several (`matmul`).
pub struct MatVec {
    /// `[tokens, cols]`
    pub x: View,
    /// `[rows, cols]`
    pub matrix: MatrixId,
    /// `[tokens, rows]`
    pub out: View,
    /// Adds to what `out` holds.
    pub accumulate: bool,
    /// For which tokens.
    pub rows: RowsOf,
}

/// The tokens that a product is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsOf {
    /// All of the step.
    Tokens,
    /// Those that get logits; the first of them is row 0 of the output.
    Logits,
}

impl RowsOf {
    fn of(self, step: &Step) -> (usize, usize) {
        match self {
            RowsOf::Tokens => (0, step.tokens),
            RowsOf::Logits => step.logit_rows(),
        }
    }
}

/// WGSL constants of a kernel that reads `cols` columns of `format`.
pub fn matrix_constants(format: WeightFormat, cols: usize) -> Vec<(&'static str, f64)> {
    let mut constants = vec![("lanes", lanes(cols) as f64)];
    if let WeightFormat::Affine { group, scales, .. } = format {
        constants.push(("group_blocks", f64::from(group) / 32.0));
        let scale_type = match scales {
            ScaleType::Bf16 => 0.0,
            ScaleType::F16 => 1.0,
            ScaleType::F32 => 2.0,
        };
        constants.push(("scale_type", scale_type));
    }
    constants
}

/// Threads that share rows: one for each block of 32 columns, within 8..=64.
fn lanes(cols: usize) -> usize {
    (cols / 32).next_power_of_two().clamp(8, 64)
}

/// Workgroups (x, y) for `rows` when a team of `lanes` threads takes `rows_per_team`.
pub(super) fn row_groups(rows: usize, cols: usize, rows_per_team: usize) -> (u32, u32) {
    fold(rows.div_ceil(rows_per_team * (64 / lanes(cols))))
}

/// The shader of `kernel` for a weight format.
pub fn matrix_shader(kernel: &'static str, format: WeightFormat) -> &'static str {
    shaders::variant(kernel, format.suffix())
}

impl Kernel for MatVec {
    fn name(&self) -> &'static str {
        "matvec"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let m = &recording.matrices[self.matrix.0];
        let what = |what: &str| format!("{what} of {}", m.name);
        expect(self.name(), &what("columns"), self.x.width, m.cols)?;
        expect(self.name(), &what("rows"), self.out.width, m.rows)?;
        expect(self.name(), "offset of x beyond 4 elements", 0, self.x.offset % 4)?;
        let multiple = m.format.column_multiple();
        if !m.cols.is_multiple_of(multiple) {
            return Err(shape_error(self.name(), &what("columns"), format!("a multiple of {multiple}"), m.cols));
        }
        match recording.spec(self.out.tensor).rows {
            Rows::PerToken(_) => Ok(()),
            Rows::Fixed(n) => Err(shape_error(self.name(), "rows of out", "one per token", n)),
        }
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let (first, tokens) = self.rows.of(step);
        if tokens == 0 {
            return;
        }
        let mut out = memory.take(self.out.tensor);
        let x = memory.tensor(self.x.tensor);
        let rows: Vec<&[f32]> = (first..first + tokens).map(|t| row(x, self.x, t)).collect();
        let products = matrix_product(memory.matrix(self.matrix), &rows);
        for (r, products) in products.chunks_exact(tokens).enumerate() {
            for (t, v) in products.iter().enumerate() {
                let out = &mut out[t * self.out.stride + self.out.offset + r];
                *out = if self.accumulate { *out + v } else { *v };
            }
        }
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let (cols, format) = resident.matrix(self.matrix);
        let groups: Vec<Vec<Binding>> = (0..resident.matrix_parts(self.matrix).len())
            .map(|part| {
                vec![
                    Binding::read(Resource::Tensor(self.x.tensor)),
                    Binding::read(Resource::Matrix(self.matrix, part)),
                    Binding::write(Resource::Tensor(self.out.tensor)),
                ]
            })
            .collect();
        ["matvec", "matmul"]
            .map(|kernel| Stage {
                shader: matrix_shader(kernel, format),
                constants: matrix_constants(format, cols),
                groups: groups.clone(),
            })
            .into()
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let (first, tokens) = self.rows.of(step);
        if tokens == 0 {
            return;
        }
        let (cols, format) = resident.matrix(self.matrix);
        let (stage, rows_per_team, layers) = if tokens == 1 { (0, 4, 1) } else { (1, 2, tokens.div_ceil(4)) };
        for (group, part) in resident.matrix_parts(self.matrix).iter().enumerate() {
            let (x, y) = row_groups(part.rows, cols, rows_per_team);
            let immediates = Immediates::new(&[
                part.rows as u32,
                (cols / 32) as u32,
                x,
                (self.x.offset / 4) as u32,
                (self.x.stride / 4) as u32,
                (self.out.offset + part.first) as u32,
                self.out.stride as u32,
                u32::from(self.accumulate),
                first as u32,
                tokens as u32,
                part.codes,
                part.scales,
                part.biases,
            ]);
            let weight_bytes = format.matrix_bytes(part.rows, cols) as u64;
            out.push(Dispatch { stage, group, immediates, grid: [x, y, layers as u32], weight_bytes });
        }
    }
}
