//! Weights, tensors and caches in GPU memory, laid out within the limits on buffers and bindings.

use std::collections::HashMap;
use std::ops::Range;

use flashflood_formats::Codebook;

use super::caches::CacheWindows;
use super::upload::Upload;
use crate::compute::kernel::{ExpertSlab, MatrixPart, ResidentLayout, Resource};
use crate::compute::ops::{LogitsTopK, ProductShape, Team};
use crate::compute::recording::{CacheId, MatrixId, Recorded, Recording, TensorId, VectorId, View};
use crate::compute::shaders::Form;
use crate::file_error::FileError;
use crate::weights::{MOST_STREAMS, Matrix, WeightFormat, read_mapped};

/// Buffers that hold several small weights are at most this large.
const SHARED_BUFFER: u64 = 256 << 20;
/// Weights start at multiples of this: no device asks for more.
const ALIGN: u64 = 256;
/// Sections within a part start at multiples of this, so that kernels may read 16 bytes at a time.
const SECTION: u64 = 16;
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

/// Everything a recording touches, in GPU memory.
pub(super) struct Resident {
    device: wgpu::Device,
    queue: wgpu::Queue,
    binding: u64,
    buffers: Vec<wgpu::Buffer>,
    planned: Vec<u64>,
    matrices: Vec<(usize, WeightFormat, Vec<MatrixPart>, Vec<Region>)>,
    vectors: Vec<Region>,
    /// All of them.
    all_vectors: Region,
    tensors: Vec<wgpu::Buffer>,
    caches: Vec<CacheWindows>,
    scratch: [wgpu::Buffer; 2],
    rope: wgpu::Buffer,
    pairs: wgpu::Buffer,
    tiles: wgpu::Buffer,
    slots: wgpu::Buffer,
    totals: wgpu::Buffer,
    /// Of every format that has one.
    codebooks: HashMap<Codebook, wgpu::Buffer>,
    threads: usize,
    /// Of products that have another than the built-in one.
    pub(super) teams: HashMap<ProductShape, Team>,
    /// Every expert is in the slot that `slots` says.
    pub(super) all_resident: bool,
    /// Where each layer's experts begin there.
    pub(super) first_slots: Vec<usize>,
    /// Matrix units make the products of prompts whose activations have this form.
    pub(super) cooperative: Option<Form>,
    /// They take the state of delta rules through prompts.
    pub(super) cooperative_delta_net: bool,
    /// They make attention of prompts.
    pub(super) cooperative_attention: bool,
    /// From so many positions on tokens take their tiles.
    pub(super) deep_attention: Option<usize>,
    /// Outputs of experts are written also where what combines them could make them.
    pub(super) writes_all: bool,
    /// Of each layer of experts, where a kernel may take them from one slab.
    pub(super) expert_slabs: Vec<Option<ExpertSlab>>,
}

impl Resident {
    /// Allocates and uploads. `binding` is the largest binding, in bytes; `threads` the most a workgroup may have.
    ///
    /// # Errors
    /// A file of weights that cannot be read.
    pub(super) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        recording: &Recording,
        context: usize,
        (binding, threads): (u64, usize),
        scratch2: u64,
        slots: usize,
    ) -> Result<Self, FileError> {
        let buffer = |label: &str, size: u64| storage(device, label, size);
        let tensors = (0..recording.tensors.len())
            .map(|i| buffer(&recording.tensors[i].label, recording.elements(TensorId(i)) as u64 * 4))
            .collect();
        let caches = recording.caches.iter().map(|spec| CacheWindows::new(spec, context, binding)).collect();
        let scratch_of = |tokens: usize| {
            let kernels = recording.steps.iter().map(|s| match s {
                Recorded::Kernel { kernel, .. } => kernel.scratch_bytes(context, tokens) as u64,
                _ => 0,
            });
            kernels.max().unwrap_or(0)
        };
        let scratch = scratch_of(1).max(SCRATCH.min(binding).min(scratch_of(recording.max_tokens))).max(scratch2);
        let rope_width = 256 * 4 * recording.max_tokens as u64;
        let top_k = most_chosen(recording);
        let mut resident = Resident {
            device: device.clone(),
            queue: queue.clone(),
            binding,
            buffers: Vec::new(),
            planned: Vec::new(),
            matrices: Vec::new(),
            vectors: Vec::new(),
            all_vectors: Region { buffer: 0, offset: 0, size: 0 },
            tensors,
            caches,
            scratch: [buffer("scratch", scratch), buffer("scratch 2", scratch2)],
            rope: buffer("rope", rope_width),
            pairs: buffer("pairs", (recording.max_tokens * top_k * 16) as u64),
            // a pair each at worst, and room that is left over (`expert_groups::rooms`)
            tiles: buffer("tiles", (recording.max_tokens * top_k * 2 * 16) as u64),
            slots: buffer("slots", slots as u64 * 8),
            totals: buffer("totals", recording.logits.map_or(0, |l| LogitsTopK::runs(l.width)) as u64 * 8),
            codebooks: codebooks(recording)
                .map(|book| (book, buffer("codebook", book.words().len() as u64 * 4)))
                .collect(),
            threads,
            teams: HashMap::new(),
            all_resident: false,
            first_slots: Vec::new(),
            cooperative: None,
            cooperative_delta_net: false,
            cooperative_attention: false,
            deep_attention: None,
            writes_all: false,
            expert_slabs: Vec::new(),
        };
        resident.place_weights(recording);
        resident.clear();
        resident.reach(recording, 1);
        resident.upload(recording)?;
        Ok(resident)
    }

    /// Zeroes all but weights. wgpu would do so when it first sees a buffer used, but it may see none of its dispatches
    /// ([`Chain`](flashflood_backends::gpu::chain::Chain)), and zero what they wrote when it is copied.
    fn clear(&self) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let others = [&self.rope, &self.pairs, &self.tiles, &self.slots, &self.totals];
        let all = self.tensors.iter().chain(&self.scratch).chain(others).chain(self.codebooks.values());
        all.for_each(|buffer| encoder.clear_buffer(buffer, 0, None));
        self.queue.submit([encoder.finish()]);
    }

    /// Makes the windows of caches that hold so many positions, zeroed as [`clear`](Self::clear) says. How many of each cache
    /// there were, if they were not enough: every token asks.
    pub(super) fn reach(&mut self, recording: &Recording, positions: usize) -> Option<Vec<usize>> {
        if self.caches.iter().all(|cache| cache.hold(positions)) {
            return None;
        }
        let before = self.windows_made();
        let device = &self.device;
        let mut encoder = device.create_command_encoder(&Default::default());
        for (spec, cache) in recording.caches.iter().zip(&mut self.caches) {
            cache.reach(spec, positions, |label, size| {
                let buffer = storage(device, label, size);
                encoder.clear_buffer(&buffer, 0, None);
                buffer
            });
        }
        self.queue.submit([encoder.finish()]);
        Some(before)
    }

    /// How many windows of each cache were made.
    pub(super) fn windows_made(&self) -> Vec<usize> {
        self.caches.iter().map(CacheWindows::made).collect()
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
            // every section is rounded up
            let most = ((self.binding - MOST_STREAMS as u64 * SECTION - ALIGN) / row).max(1) as usize;
            // whole groups of rows, where there is room for one: some kernels round them to 8 bits together
            let most = if most < 32 { most } else { most / 32 * 32 };
            let (mut parts, mut regions) = (Vec::new(), Vec::new());
            for first in (0..matrix.rows).step_by(most) {
                let rows = most.min(matrix.rows - first);
                let (mut streams, mut end) = ([0; MOST_STREAMS], 0);
                for (at, bytes) in streams.iter_mut().zip(format.stream_bytes(cols)) {
                    *at = (end / 4) as u32;
                    end += ((rows * bytes) as u64).next_multiple_of(SECTION);
                }
                parts.push(MatrixPart { first, rows, streams });
                let region = self.region(end);
                regions.push(region);
            }
            self.matrices.push((cols, format, parts, regions));
        }
        // side by side, so that one binding covers them: norms, biases and the like are a few MiB of any model
        let size_of = |values: &[f32]| (values.len() as u64 * 4).next_multiple_of(ALIGN);
        let all = self.region(recording.vectors.iter().map(|(_, values)| size_of(values)).sum::<u64>().max(ALIGN));
        let mut offset = all.offset;
        for (_, values) in &recording.vectors {
            let size = size_of(values);
            self.vectors.push(Region { offset, size, ..all });
            offset += size;
        }
        self.all_vectors = all;
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

    fn upload(&self, recording: &Recording) -> Result<(), FileError> {
        let mut upload = Upload::new(&self.device, &self.queue);
        // of each buffer
        let mut written: Vec<Vec<Range<u64>>> = vec![Vec::new(); self.buffers.len()];
        let mut write = |region: &Region, offset: u64, bytes: &[u8]| {
            let start = region.offset + offset;
            if bytes.is_empty() {
                return Ok(());
            }
            written[region.buffer].push(start..start + bytes.len() as u64);
            upload.write(&self.buffers[region.buffer], start, bytes)
        };
        for (matrix, (_, _, parts, regions)) in recording.matrices.iter().zip(&self.matrices) {
            for (part, region) in parts.iter().zip(regions) {
                let rows = matrix.slice_rows(part.first..part.first + part.rows);
                for (stream, at) in part.streams.into_iter().enumerate() {
                    if rows.blocks.iter().any(|block| block.streams[stream].len() % 4 != 0) {
                        // a buffer is written in whole words
                        write(region, u64::from(at) * 4, &joined(&rows, stream)?)?;
                        continue;
                    }
                    let mut at = u64::from(at) * 4;
                    for block in &rows.blocks {
                        write(region, at, &block.streams[stream])?;
                        at += block.streams[stream].len() as u64;
                    }
                }
            }
        }
        for ((_, values), region) in recording.vectors.iter().zip(&self.vectors) {
            write(region, 0, bytemuck::cast_slice(values))?;
        }
        upload.finish();
        for (book, buffer) in &self.codebooks {
            self.queue.write_buffer(buffer, 0, bytemuck::cast_slice(book.words()));
        }
        // what fills weights up to whole sections is zero, as wgpu would make it: see `clear`
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for (buffer, mut written) in self.buffers.iter().zip(written) {
            written.sort_unstable_by_key(|range| range.start);
            let starts = std::iter::once(0).chain(written.iter().map(|range| range.end));
            let ends = written.iter().map(|range| range.start).chain([buffer.size()]);
            for (start, end) in starts.zip(ends).filter(|(start, end)| start < end) {
                encoder.clear_buffer(buffer, start, Some(end - start));
            }
        }
        self.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// The binding of a resource; `slabs` are those expert slots that are there.
    pub(super) fn binding<'a>(
        &'a self,
        resource: Resource,
        slabs: &'a [Option<wgpu::Buffer>],
    ) -> Option<wgpu::BufferBinding<'a>> {
        let region = |r: &Region| wgpu::BufferBinding {
            buffer: &self.buffers[r.buffer],
            offset: r.offset,
            size: std::num::NonZeroU64::new(r.size),
        };
        Some(match resource {
            Resource::Tensor(tensor) | Resource::Columns(View { tensor, .. }) => {
                self.tensors[tensor.0].as_entire_buffer_binding()
            }
            Resource::Vector(v) => region(&self.vectors[v.0]),
            Resource::Vectors => region(&self.all_vectors),
            Resource::Matrix(m, part) => region(&self.matrices[m.0].3[part]),
            Resource::Cache(cache, stream, window) => {
                self.caches[cache.0].of(stream).get(window)?.as_entire_buffer_binding()
            }
            Resource::Rope => self.rope.as_entire_buffer_binding(),
            Resource::Scratch => self.scratch[0].as_entire_buffer_binding(),
            Resource::Scratch2 => self.scratch[1].as_entire_buffer_binding(),
            Resource::Slab(slab) => slabs[slab].as_ref()?.as_entire_buffer_binding(),
            Resource::Pairs => self.pairs.as_entire_buffer_binding(),
            Resource::Tiles => self.tiles.as_entire_buffer_binding(),
            Resource::Slots => self.slots.as_entire_buffer_binding(),
            Resource::Totals => self.totals.as_entire_buffer_binding(),
            Resource::Codebook(book) => self.codebooks.get(&book)?.as_entire_buffer_binding(),
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

    pub(super) fn totals(&self) -> &wgpu::Buffer {
        &self.totals
    }

    pub(super) fn scratch(&self, which: usize) -> &wgpu::Buffer {
        &self.scratch[which]
    }

    /// Experts of a layer, once all are resident.
    pub(super) fn experts(&self, moe_layer: usize) -> usize {
        self.first_slots.get(moe_layer..moe_layer + 2).map_or(0, |slots| slots[1] - slots[0])
    }

    /// The windows of a stream of a cache that were made, and the positions that each but the last holds.
    pub(super) fn cache(&self, cache: CacheId, stream: usize) -> (&[wgpu::Buffer], usize) {
        let cache = &self.caches[cache.0];
        (cache.of(stream), cache.rows())
    }
}

/// A buffer that kernels read and write, and that is copied.
fn storage(device: &wgpu::Device, label: &str, size: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: size.max(16).next_multiple_of(16),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// The most experts that a token chooses in a layer; 0 without routed experts.
pub(super) fn most_chosen(recording: &Recording) -> usize {
    let chosen = recording.steps.iter().map(|recorded| match recorded {
        Recorded::Route(route) => route.ids.width,
        Recorded::Experts(op) => op.out.rows_per_token,
        _ => 0,
    });
    chosen.max().unwrap_or(0)
}

/// The tables that formats of a recording look their codes up in.
fn codebooks(recording: &Recording) -> impl Iterator<Item = Codebook> {
    let experts = recording.steps.iter().filter_map(|recorded| match recorded {
        Recorded::Experts(op) => Some(op.slot.projections().map(|(_, place)| place.format)),
        _ => None,
    });
    let formats = recording.matrices.iter().map(|matrix| matrix.format).chain(experts.flatten());
    formats.filter_map(WeightFormat::codebook)
}

/// A stream of all blocks, in whole words.
fn joined(matrix: &Matrix, stream: usize) -> Result<Vec<u8>, FileError> {
    let (mut bytes, mut read) = (Vec::new(), Vec::new());
    for block in &matrix.blocks {
        bytes.extend_from_slice(read_mapped(&block.streams[stream], &mut read)?);
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

impl ResidentLayout for Resident {
    fn matrix_parts(&self, matrix: MatrixId) -> &[MatrixPart] {
        &self.matrices[matrix.0].2
    }

    fn matrix(&self, matrix: MatrixId) -> (usize, WeightFormat) {
        let (cols, format, ..) = &self.matrices[matrix.0];
        (*cols, *format)
    }

    fn vector_offset(&self, vector: VectorId) -> usize {
        ((self.vectors[vector.0].offset - self.all_vectors.offset) / 4) as usize
    }

    fn cache_window(&self, cache: CacheId) -> usize {
        self.caches[cache.0].rows()
    }

    fn cache_windows(&self, cache: CacheId) -> usize {
        self.caches[cache.0].most()
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

    fn first_slot(&self, moe_layer: usize) -> usize {
        // nothing is looked up before they are known
        self.first_slots.get(moe_layer).copied().unwrap_or(0)
    }

    fn cooperative(&self) -> Option<Form> {
        self.cooperative
    }
    fn cooperative_delta_net(&self) -> bool {
        self.cooperative_delta_net
    }
    fn cooperative_attention(&self) -> bool {
        self.cooperative_attention
    }
    fn deep_attention(&self) -> Option<usize> {
        self.deep_attention
    }

    fn expert_slab(&self, moe_layer: usize) -> Option<ExpertSlab> {
        self.expert_slabs.get(moe_layer).copied().flatten().filter(|_| !self.writes_all)
    }

    fn team(&self, shape: &ProductShape) -> Team {
        self.teams.get(shape).copied().unwrap_or_else(|| shape.team())
    }
}
