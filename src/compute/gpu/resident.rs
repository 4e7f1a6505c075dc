//! Weights, tensors and caches in GPU memory, laid out within the limits on buffers and bindings.

use std::collections::HashMap;

use crate::compute::kernel::{MatrixPart, ResidentLayout, Resource};
use crate::compute::ops::{ProductShape, Team};
use crate::compute::recording::{KvId, MatrixId, Recorded, Recording, TensorId};
use crate::formats::WeightFormat;
use crate::model::Matrix;

/// Buffers that hold several small weights are at most this large.
const SHARED_BUFFER: u64 = 256 << 20;
/// Weights start at multiples of this: no device asks for more.
const ALIGN: u64 = 256;
/// Sections within a part start at multiples of this, so that kernels may read 16 bytes at a time.
const SECTION: u64 = 16;
/// Upload at most so much before the staging memory is given back.
const UPLOAD: usize = 64 << 20;
/// Attention splits have this many positions; windows are whole splits.
const WINDOW_STEP: usize = 512;
/// Scratch of kernels over several tokens at a time: they go through a step in runs of as many tokens as fit. The chunked
/// delta rule of the 397B takes 75 KB a token, so that this is a run of 896 tokens.
const SCRATCH: u64 = 64 << 20;

/// A range of a buffer.
#[derive(Clone, Copy, Debug)]
struct Region {
    buffer: usize,
    offset: u64,
    size: u64,
}

/// One KV cache in windows that one binding can cover.
struct KvWindows {
    keys: Vec<wgpu::Buffer>,
    values: Vec<wgpu::Buffer>,
    rows: usize,
}

/// Everything a recording touches, in GPU memory.
pub(super) struct Resident {
    device: wgpu::Device,
    queue: wgpu::Queue,
    binding: u64,
    buffers: Vec<wgpu::Buffer>,
    planned: Vec<u64>,
    matrices: Vec<(usize, WeightFormat, Vec<MatrixPart>, Vec<Region>)>,
    vectors: Vec<Region>,
    tensors: Vec<wgpu::Buffer>,
    kv: Vec<KvWindows>,
    scratch: [wgpu::Buffer; 2],
    rope: wgpu::Buffer,
    pairs: wgpu::Buffer,
    tiles: wgpu::Buffer,
    slots: wgpu::Buffer,
    threads: usize,
    /// Of products that have another than the built-in one.
    pub(super) teams: HashMap<ProductShape, Team>,
    /// Every expert is in the slot that `slots` says.
    pub(super) all_resident: bool,
    /// Matrix units make the products of prompts.
    pub(super) cooperative: bool,
}

impl Resident {
    /// Allocates and uploads. `binding` is the largest binding, in bytes; `threads` the most a workgroup may have.
    pub(super) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        recording: &Recording,
        context: usize,
        (binding, threads): (u64, usize),
        scratch2: u64,
        slots: usize,
    ) -> Self {
        let buffer = |label: &str, size: u64| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: size.max(16).next_multiple_of(16),
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let tensors = (0..recording.tensors.len())
            .map(|i| buffer(&recording.tensors[i].label, recording.elements(TensorId(i)) as u64 * 4))
            .collect();
        let kv = recording
            .kv
            .iter()
            .map(|spec| {
                let most = (binding / (spec.width as u64 * 4)) as usize / WINDOW_STEP * WINDOW_STEP;
                let rows = most.max(WINDOW_STEP).min(context.next_multiple_of(WINDOW_STEP));
                let windows = |what: &str| -> Vec<wgpu::Buffer> {
                    let label = format!("{} {what}", spec.label);
                    (0..context.div_ceil(rows))
                        .map(|w| buffer(&label, (rows.min(context - w * rows) * spec.width * 4) as u64))
                        .collect()
                };
                KvWindows { keys: windows("keys"), values: windows("values"), rows }
            })
            .collect();
        let scratch_of = |tokens: usize| {
            let kernels = recording.steps.iter().map(|s| match s {
                Recorded::Kernel { kernel, .. } => kernel.scratch_bytes(context, tokens) as u64,
                _ => 0,
            });
            kernels.max().unwrap_or(0)
        };
        let scratch = scratch_of(1).max(SCRATCH.min(binding).min(scratch_of(recording.max_tokens))).max(scratch2);
        let rope_width = 256 * 4 * recording.max_tokens as u64;
        let (top_k, _) = routed(recording);
        let mut resident = Resident {
            device: device.clone(),
            queue: queue.clone(),
            binding,
            buffers: Vec::new(),
            planned: Vec::new(),
            matrices: Vec::new(),
            vectors: Vec::new(),
            tensors,
            kv,
            scratch: [buffer("scratch", scratch), buffer("scratch 2", scratch2)],
            rope: buffer("rope", rope_width),
            pairs: buffer("pairs", (recording.max_tokens * top_k * 16) as u64),
            // a pair each at worst
            tiles: buffer("tiles", (recording.max_tokens * top_k * 16) as u64),
            slots: buffer("slots", slots as u64 * 8),
            threads,
            teams: HashMap::new(),
            all_resident: false,
            cooperative: false,
        };
        resident.place_weights(recording);
        resident.upload(recording);
        resident
    }

    fn region(&mut self, size: u64) -> Region {
        let size = size.next_multiple_of(ALIGN);
        match self.planned.last_mut() {
            Some(used) if *used + size <= SHARED_BUFFER.min(self.binding) => {
                let offset = *used;
                *used += size;
                Region { buffer: self.planned.len() - 1, offset, size }
            }
            _ => {
                self.planned.push(size);
                Region { buffer: self.planned.len() - 1, offset: 0, size }
            }
        }
    }

    fn place_weights(&mut self, recording: &Recording) {
        for matrix in &recording.matrices {
            let (cols, format) = (matrix.cols, matrix.format);
            let row = format.matrix_bytes(1, cols) as u64;
            // three sections are rounded up
            let most = ((self.binding - 3 * SECTION - ALIGN) / row).max(1) as usize;
            let (mut parts, mut regions) = (Vec::new(), Vec::new());
            for first in (0..matrix.rows).step_by(most) {
                let rows = most.min(matrix.rows - first);
                let codes = ((rows * format.row_bytes(cols)) as u64).next_multiple_of(SECTION);
                let scales = ((rows * format.row_scale_bytes(cols)) as u64).next_multiple_of(SECTION);
                parts.push(MatrixPart {
                    first,
                    rows,
                    codes: 0,
                    scales: (codes / 4) as u32,
                    biases: ((codes + scales) / 4) as u32,
                });
                let region = self.region(codes + 2 * scales);
                regions.push(region);
            }
            self.matrices.push((cols, format, parts, regions));
        }
        for (_, values) in &recording.vectors {
            let region = self.region(values.len() as u64 * 4);
            self.vectors.push(region);
        }
        self.buffers = self
            .planned
            .iter()
            .map(|&size| {
                self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("weights"),
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
            .collect();
    }

    fn upload(&self, recording: &Recording) {
        let mut staged = 0;
        let mut write = |region: &Region, offset: u64, bytes: &[u8]| {
            // in pieces, so that staging memory stays small beside the weights
            for (i, piece) in bytes.chunks(UPLOAD).enumerate() {
                let at = region.offset + offset + (i * UPLOAD) as u64;
                self.queue.write_buffer(&self.buffers[region.buffer], at, piece);
                staged += piece.len();
                if staged >= UPLOAD {
                    self.queue.submit([]);
                    // an error here shows again, with a message, at the first step
                    let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
                    staged = 0;
                }
            }
        };
        for (matrix, (_, _, parts, regions)) in recording.matrices.iter().zip(&self.matrices) {
            for (part, region) in parts.iter().zip(regions) {
                let rows = matrix.slice_rows(part.first..part.first + part.rows);
                let mut at = 0;
                for block in &rows.blocks {
                    write(region, at, &block.codes);
                    at += block.codes.len() as u64;
                }
                write(region, u64::from(part.scales) * 4, &joined(&rows, |b| &b.scales));
                write(region, u64::from(part.biases) * 4, &joined(&rows, |b| &b.biases));
            }
        }
        for ((_, values), region) in recording.vectors.iter().zip(&self.vectors) {
            write(region, 0, bytemuck::cast_slice(values));
        }
        self.queue.submit([]);
    }

    /// The binding of a resource; `slabs` are those expert slots that are there.
    pub(super) fn binding<'a>(
        &'a self,
        resource: Resource,
        slabs: &'a [Option<wgpu::Buffer>],
    ) -> Option<wgpu::BindingResource<'a>> {
        let region = |r: &Region| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &self.buffers[r.buffer],
                offset: r.offset,
                size: std::num::NonZeroU64::new(r.size),
            })
        };
        Some(match resource {
            Resource::Tensor(t) => self.tensors[t.0].as_entire_binding(),
            Resource::Vector(v) => region(&self.vectors[v.0]),
            Resource::Matrix(m, part) => region(&self.matrices[m.0].3[part]),
            Resource::Keys(kv, window) => self.kv[kv.0].keys[window].as_entire_binding(),
            Resource::Values(kv, window) => self.kv[kv.0].values[window].as_entire_binding(),
            Resource::Rope => self.rope.as_entire_binding(),
            Resource::Scratch => self.scratch[0].as_entire_binding(),
            Resource::Scratch2 => self.scratch[1].as_entire_binding(),
            Resource::Slab(slab) => slabs[slab].as_ref()?.as_entire_binding(),
            Resource::Pairs => self.pairs.as_entire_binding(),
            Resource::Tiles => self.tiles.as_entire_binding(),
            Resource::Slots => self.slots.as_entire_binding(),
        })
    }

    pub(super) fn tensor(&self, id: TensorId) -> &wgpu::Buffer {
        &self.tensors[id.0]
    }

    pub(super) fn rope(&self) -> &wgpu::Buffer {
        &self.rope
    }

    pub(super) fn pairs(&self) -> &wgpu::Buffer {
        &self.pairs
    }

    pub(super) fn tiles(&self) -> &wgpu::Buffer {
        &self.tiles
    }

    pub(super) fn slots(&self) -> &wgpu::Buffer {
        &self.slots
    }

    pub(super) fn scratch(&self, which: usize) -> &wgpu::Buffer {
        &self.scratch[which]
    }

    /// Key and value buffers of a cache with the positions that each but the last holds.
    pub(super) fn kv(&self, kv: KvId) -> (&[wgpu::Buffer], &[wgpu::Buffer], usize) {
        let kv = &self.kv[kv.0];
        (&kv.keys, &kv.values, kv.rows)
    }
}

/// Experts per token and layers with experts.
pub(super) fn routed(recording: &Recording) -> (usize, usize) {
    let mut layers = 0;
    let mut top_k = 0;
    for step in &recording.steps {
        if let Recorded::Experts(op) = step {
            layers = layers.max(op.layer + 1);
            top_k = op.out.rows_per_token;
        }
    }
    (top_k, layers)
}

/// The scales (or biases) of all blocks, in whole words.
fn joined(matrix: &Matrix, of: impl Fn(&crate::model::MatrixBlock) -> &bytes::Bytes) -> Vec<u8> {
    let mut bytes: Vec<u8> = matrix.blocks.iter().flat_map(|b| of(b).iter().copied()).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl ResidentLayout for Resident {
    fn matrix_parts(&self, matrix: MatrixId) -> &[MatrixPart] {
        &self.matrices[matrix.0].2
    }

    fn matrix(&self, matrix: MatrixId) -> (usize, WeightFormat) {
        let (cols, format, ..) = &self.matrices[matrix.0];
        (*cols, *format)
    }

    fn kv_window(&self, kv: KvId) -> usize {
        self.kv[kv.0].rows
    }

    fn kv_windows(&self, kv: KvId) -> usize {
        self.kv[kv.0].keys.len()
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch[0].size() as usize
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn all_resident(&self) -> bool {
        self.all_resident
    }

    fn cooperative(&self) -> bool {
        self.cooperative
    }

    fn team(&self, shape: &ProductShape) -> Team {
        self.teams.get(shape).copied().unwrap_or_else(|| shape.team())
    }
}
