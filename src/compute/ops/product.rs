//! What the kernels of products have in common: shaders, teams of threads, and rows a workgroup.

use crate::compute::kernel::fold;
use crate::compute::shaders::{self, Form};
use crate::formats::{ScaleType, WeightFormat};

/// Rows from which the most are treated alike.
const MANY_ROWS: usize = 65_536;

/// Shape of a product as far as kernels are made for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// `matvec`, `matmul`, `expert_gate_up` or `expert_down`.
    pub kernel: &'static str,
    /// Activations.
    pub form: Form,
    /// Weights.
    pub format: WeightFormat,
    /// Columns of the weights.
    pub cols: usize,
    /// Rows of the output, rounded to a power of two.
    rows: usize,
}

/// How many threads a product is spread over. It changes the speed and nothing else: the order of additions is that of
/// the lanes, which depend on the shape alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Team {
    /// Threads of a workgroup.
    pub threads: usize,
    /// Sums that a thread keeps.
    pub sums: usize,
}

impl ProductShape {
    /// Of `kernel` for `rows` of the output and `cols` of the weights.
    pub fn new(kernel: &'static str, form: Form, format: WeightFormat, rows: usize, cols: usize) -> Self {
        let rows = rows.next_power_of_two().clamp(1024, MANY_ROWS);
        ProductShape { kernel, form, format, cols, rows }
    }

    /// The shader.
    pub fn shader(&self) -> &'static str {
        shaders::variant(self.kernel, self.form, self.format.suffix())
    }

    /// Threads that share rows. Never tuned: they decide the order of additions, which must be the same for one token
    /// and for many, and on the next day.
    ///
    /// One thread for each block of 32 columns, within 8..=32; in `expert_down`, whose columns are few, one for four
    /// blocks (H200, int8, 1024 columns: 9.9 us a call with 8, 10.7 with 32; f32: 23.2 and 38.2).
    pub(crate) fn lanes(&self) -> usize {
        let blocks = if self.kernel == "expert_down" { 4 } else { 1 };
        (self.cols / 32 / blocks).next_power_of_two().clamp(8, 32)
    }

    /// What is best, or close to it, on an H200 over the shapes of published models: `benches/results/README.md`.
    pub fn team(&self) -> Team {
        let (threads, sums) = match (self.kernel, self.form) {
            // a workgroup of gate and up makes the 32 hidden values that share a scale
            ("expert_gate_up", _) => (256, 64 * self.lanes() / 256),
            ("matmul", _) => (64, 8),
            ("matvec", Form::F32) if self.rows >= MANY_ROWS => (64, 8),
            ("matvec", Form::F32) => (64, 4),
            _ => (32, 4),
        };
        Team { threads, sums }
    }

    /// Rows of the output that a workgroup makes.
    fn rows_per_group(&self, team: Team) -> usize {
        let teams = team.threads / self.lanes();
        match self.kernel {
            "expert_gate_up" => 32,
            "matmul" => 2 * teams,
            _ => team.sums * teams,
        }
    }

    /// Workgroups (x, y) for `rows` of the output.
    pub(crate) fn row_groups(&self, team: Team, rows: usize) -> (u32, u32) {
        fold(rows.div_ceil(self.rows_per_group(team)))
    }

    /// WGSL constants of the shader.
    pub fn constants(&self, team: Team) -> Vec<(&'static str, f64)> {
        let mut constants =
            vec![("lanes", self.lanes() as f64), ("threads", team.threads as f64), ("sums", team.sums as f64)];
        if let WeightFormat::Affine { group, scales, .. } = self.format {
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
}
