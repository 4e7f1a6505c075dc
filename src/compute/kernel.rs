//! What a kernel is to the devices: a shape check, a CPU twin, and dispatches on the GPU.

use std::ops::Range;

use flashflood_formats::Codebook;

use super::cpu::CpuMemory;
use super::ops::{ProductShape, Team};
use super::shaders::Form;
use super::step::Step;
use crate::weights::WeightFormat;

use super::recording::{CacheId, MatrixId, Recording, ShapeError, TensorId, VectorId, View};

/// An operation with its operands: a file in `ops/` each. Its kernels are those of [`stages`](Kernel::stages).
pub(crate) trait Kernel: Send + Sync {
    /// Name of the file, the test and, where it has one kernel, that.
    fn name(&self) -> &'static str;

    /// Whether the operands fit together.
    fn check(&self, recording: &Recording) -> Result<(), ShapeError>;

    /// What it writes, for dumps.
    fn outputs(&self) -> Vec<View>;

    /// The CPU twin: the same arithmetic in f32.
    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step);

    /// What it carries from token to token, if anything. Such a kernel can take the tokens of a step in parts, so that what
    /// it carries can be kept in between.
    fn state(&self) -> Vec<TensorId> {
        Vec::new()
    }

    /// As [`run_on_cpu`](Kernel::run_on_cpu), for the tokens `part` of the step; those before are done. A part that does
    /// not begin the step begins at token [`Step::LEAST_MARK`] or later.
    fn run_part_on_cpu(&self, memory: &mut CpuMemory, step: &Step, _part: Range<usize>) {
        self.run_on_cpu(memory, step);
    }

    /// Bytes of the matrices that it reads in a step, once each.
    fn weight_bytes(&self, _recording: &Recording, _step: &Step) -> u64 {
        0
    }

    /// Bytes of scratch between two of its dispatches, for `tokens` tokens at the end of a context. It may get less than
    /// for all tokens of a step, but never less than for one.
    fn scratch_bytes(&self, _context: usize, _tokens: usize) -> usize {
        0
    }

    /// Pipelines and bind groups, made once before tokens flow.
    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage>;

    /// The layer, among those with experts, whose slots it reads.
    fn expert_layer(&self) -> Option<usize> {
        None
    }

    /// Of its first stages those that are products of one token, whose threads are tuned.
    fn products(&self, _resident: &dyn ResidentLayout) -> Vec<ProductShape> {
        Vec::new()
    }

    /// The dispatches of one step.
    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>);

    /// As [`dispatch`](Kernel::dispatch), for the tokens `part` of a step of a prompt, as for the CPU.
    fn dispatch_part(&self, resident: &dyn ResidentLayout, step: &Step, _part: Range<usize>, out: &mut Vec<Dispatch>) {
        self.dispatch(resident, step, out);
    }
}

/// How the GPU has laid weights and caches out: bindings are limited (128 MiB on some drivers), so a large
/// matrix is several parts and a long cache several windows.
pub(crate) trait ResidentLayout {
    /// The parts of a matrix, top to bottom.
    fn matrix_parts(&self, matrix: MatrixId) -> &[MatrixPart];
    /// Columns and format of a matrix.
    fn matrix(&self, matrix: MatrixId) -> (usize, WeightFormat);
    /// Where a vector begins in [`Resource::Vectors`], in elements.
    fn vector_offset(&self, vector: VectorId) -> usize;
    /// Positions that one window of a cache holds; the last window may hold fewer.
    fn cache_window(&self, cache: CacheId) -> usize;
    /// Windows of a cache.
    fn cache_windows(&self, cache: CacheId) -> usize;
    /// Bytes that scratch between two dispatches of one kernel may take.
    fn scratch_bytes(&self) -> usize;
    /// Most threads of a workgroup: 256 or more.
    fn threads(&self) -> usize;
    /// Whether every expert is in its slot: kernels look slots up, and the host need not know what the router chose.
    fn all_resident(&self) -> bool;
    /// Where the slots of a layer's experts begin in [`Resource::Slots`], when all are resident. Layers with experts are
    /// counted from 0.
    fn first_slot(&self, moe_layer: usize) -> usize;
    /// Activations in which form the matrix units of the device multiply in prompts, if it has any.
    fn cooperative(&self) -> Option<Form> {
        None
    }
    /// Whether matrix units take the state of a delta rule through the chunks of a prompt.
    fn cooperative_delta_net(&self) -> bool {
        false
    }
    /// Whether they make attention of prompts.
    fn cooperative_attention(&self) -> bool {
        false
    }
    /// Positions from which on a token's attention is that of a prompt's tiles, where it is at all.
    fn deep_attention(&self) -> Option<usize> {
        None
    }
    /// Where the experts of a layer are when all are in one slab.
    fn expert_slab(&self, _moe_layer: usize) -> Option<ExpertSlab> {
        None
    }
    /// How many threads a product is spread over: the same for its stage and its dispatches.
    fn team(&self, shape: &ProductShape) -> Team {
        shape.team()
    }
}

/// A slab that has all slots of a layer's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpertSlab {
    /// Which slab.
    pub number: usize,
    /// Bytes of a slot.
    pub slot_bytes: usize,
}

/// Rows of a matrix that one binding covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixPart {
    /// First row.
    pub first: usize,
    /// Rows.
    pub rows: usize,
    /// First words of the streams of the format in the binding: what these are is in `wgsl/shared/weights_*.wgsl`.
    pub streams: [u32; 3],
}

/// Whether a binding is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// What a binding points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// Activations or state.
    Tensor(TensorId),
    /// The same, of which only these columns are touched: what touches others may run beside it.
    Columns(View),
    /// Weights in f32.
    Vector(VectorId),
    /// All vectors, for kernels that read more of them than there are bindings: [`ResidentLayout::vector_offset`].
    Vectors,
    /// Part `.1` of a matrix: the streams of its format.
    Matrix(MatrixId, usize),
    /// Window `.2` of stream `.1` of a cache.
    Cache(CacheId, usize, usize),
    /// Cosines and sines of every position.
    Rope,
    /// Scratch between two dispatches of one kernel.
    Scratch,
    /// The second scratch buffer, for kernels that go back and forth.
    Scratch2,
    /// Expert slots of one slab.
    Slab(usize),
    /// Which token, row and slot each (token, expert) pair of a batch has.
    Pairs,
    /// The pairs of a batch in tiles of one expert each: [`super::ops::ExpertTile`].
    Tiles,
    /// Slot of every expert when all are in memory.
    Slots,
    /// The largest logit of each run of the vocabulary, and what the run adds up to.
    Totals,
    /// The table that codes of a format are looked up in.
    Codebook(Codebook),
}

impl Resource {
    /// The tensor, of columns of one.
    pub(crate) fn whole(self) -> Self {
        match self {
            Resource::Columns(view) => Resource::Tensor(view.tensor),
            other => other,
        }
    }
}

/// The binding of a codebook: behind those of every product, so that a format's WGSL knows it.
const CODEBOOK: u32 = 15;

/// One binding of a bind group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Binding(pub Access, pub Resource);

impl Binding {
    /// Its number: the place in the list, but that of a codebook, which comes last.
    pub(crate) fn number(self, place: usize) -> u32 {
        match self.1 {
            Resource::Codebook(_) => CODEBOOK,
            _ => place as u32,
        }
    }

    /// The columns that are touched, of whatever it is that has some.
    pub(crate) fn columns(self) -> Range<u32> {
        match self.1 {
            Resource::Columns(view) => view.offset as u32..(view.offset + view.width) as u32,
            _ => 0..u32::MAX,
        }
    }

    /// The binding of the codebook of a format that has one.
    pub(crate) fn codebook(format: WeightFormat) -> Option<Self> {
        format.codebook().map(|book| Binding::read(Resource::Codebook(book)))
    }

    /// Read-only.
    pub(crate) fn read(resource: Resource) -> Self {
        Binding(Access::Read, resource)
    }
    /// Read and written.
    pub(crate) fn write(resource: Resource) -> Self {
        Binding(Access::Write, resource)
    }
}

/// A pipeline with the bind groups it is used with.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// Shader, a key of [`super::shaders::source`].
    pub shader: &'static str,
    /// WGSL `override` constants.
    pub constants: Vec<(&'static str, f64)>,
    /// Bind groups; all have the same shape.
    pub groups: Vec<Vec<Binding>>,
}

/// Values that a dispatch passes without a buffer: at most 16 words (`var<immediate>`), as `params!` names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Immediates {
    words: [u32; 16],
    names: &'static [&'static str],
}

impl Immediates {
    /// From words with the names that they have in the WGSL struct, in its order.
    pub(crate) fn new<const N: usize>(names: &'static [&'static str; N], values: [u32; N]) -> Self {
        const { assert!(N <= 16, "immediates are 16 words at most") };
        let mut words = [0; 16];
        words[..N].copy_from_slice(&values);
        Immediates { words, names }
    }

    /// The words that have a name.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words[..self.names.len()]
    }

    /// As bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.words())
    }

    /// Names of the words.
    #[cfg(test)]
    pub(crate) fn names(&self) -> &'static [&'static str] {
        self.names
    }
}

/// [`Immediates`] of a kernel: each field of its `struct Params` with its word, in the order of the struct, or its name alone
/// where a variable has it. A test holds them against the WGSL.
macro_rules! params {
    (@word $name:ident) => { $name };
    (@word $name:ident $value:expr) => { $value };
    ($($name:ident $(: $value:expr)?),+ $(,)?) => {
        $crate::compute::kernel::Immediates::new(
            &[$(stringify!($name)),+],
            [$($crate::compute::kernel::params!(@word $name $($value)?)),+],
        )
    };
}
pub(crate) use params;

/// One dispatch of one stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    /// Index into [`Kernel::stages`].
    pub stage: usize,
    /// Index into [`Stage::groups`].
    pub group: usize,
    /// Values.
    pub immediates: Immediates,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Bytes of weights it reads, for profiles.
    pub weight_bytes: u64,
    /// It may run side by side with the dispatches before it, back to the last that is not beside others: of what all of them
    /// bind to be written, no two touch the same element.
    pub beside: bool,
}

impl Dispatch {
    /// A dispatch that reads no weights worth counting.
    pub(crate) fn new(stage: usize, group: usize, immediates: Immediates, grid: [u32; 3]) -> Self {
        Dispatch { stage, group, immediates, grid, weight_bytes: 0, beside: false }
    }
}

/// Workgroups for `n` tiles folded into (x, y): a dimension holds at most 65,535.
pub(crate) fn fold(n: usize) -> (u32, u32) {
    const MOST: usize = 32_768;
    if n <= MOST { (n as u32, 1) } else { (MOST as u32, n.div_ceil(MOST) as u32) }
}
