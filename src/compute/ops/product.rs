//! What the kernels of products have in common: shaders, teams of threads, and rows a workgroup.

use crate::compute::kernel::fold;
use crate::compute::shaders::{self, Form};
use crate::formats::{ScaleType, WeightFormat};

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
}

impl ProductShape {
    /// The shader.
    pub fn shader(&self) -> &'static str {
        shaders::variant(self.kernel, self.form, self.format.suffix())
    }

    /// Threads that share rows: one for each block of 32 columns, within 8..=32. It depends on the columns alone, because
    /// it decides the order of additions.
    fn lanes(&self) -> usize {
        (self.cols / 32).next_power_of_two().clamp(8, 32)
    }

    /// Threads of a workgroup.
    fn threads(&self) -> usize {
        // a workgroup of gate and up makes the 32 hidden values that share a scale
        if self.kernel == "expert_gate_up" { 256 } else { 64 }
    }

    /// Sums that a thread keeps.
    fn sums(&self) -> usize {
        match self.kernel {
            "expert_gate_up" => 64 * self.lanes() / self.threads(),
            "matmul" => 8,
            _ => 4,
        }
    }

    /// Rows of the output that a workgroup makes.
    fn rows_per_group(&self) -> usize {
        let teams = self.threads() / self.lanes();
        match self.kernel {
            "expert_gate_up" => 32,
            "matmul" => 2 * teams,
            _ => self.sums() * teams,
        }
    }

    /// Workgroups (x, y) for `rows` of the output.
    pub(crate) fn row_groups(&self, rows: usize) -> (u32, u32) {
        fold(rows.div_ceil(self.rows_per_group()))
    }

    /// WGSL constants of the shader.
    pub fn constants(&self) -> Vec<(&'static str, f64)> {
        let mut constants =
            vec![("lanes", self.lanes() as f64), ("threads", self.threads() as f64), ("sums", self.sums() as f64)];
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
