//! A device that writes a script for the runner of compiled MSL, and later says what that script read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compute::ops::{self, Pair, ProductShape};
use crate::compute::shaders::Form;
use crate::compute::{
    CacheId, CacheStream, Dispatch, ExpertSlab, Kernel, MatrixId, MatrixPart, Phase, Recorded, Recording,
    ResidentLayout, Resource, Stage, Step, TensorId, VectorId, View,
};
use crate::weights::{ExpertFile, Matrix, Place, WeightFormat};

use super::script::{self, Range, Script};
use crate::inside::kernels::trial::{Device, Experts};

/// Attention splits have this many positions; windows of a cache are whole splits.
const WINDOW_STEP: usize = 512;
/// Sections of a matrix start at multiples of this.
const SECTION: usize = 16;

/// Writes a script, or answers from what it read.
pub(crate) struct MslDevice {
    folder: PathBuf,
    recording: Arc<Recording>,
    experts: Option<Experts>,
    layout: Layout,
    script: Script,
    buffers: HashMap<Resource, Range>,
    /// What the host wrote last: the router's choice is read there.
    written: HashMap<TensorId, Vec<f32>>,
    /// What the script has read, and how much of that is told.
    answers: Option<(Vec<u8>, usize)>,
}

struct Layout {
    binding: u64,
    threads: usize,
    context: usize,
    matrices: Vec<(usize, WeightFormat, Vec<MatrixPart>)>,
    /// Where each vector begins among all of them, in elements.
    vectors: Vec<usize>,
    /// Bytes of the widest row of each cache.
    kv_rows: Vec<usize>,
    scratch: usize,
    /// Experts of each layer, where kernels look their slots up.
    looked_up: Option<usize>,
    /// That of all experts, where those are looked up and in one.
    slab: Option<ExpertSlab>,
    deep_attention: Option<usize>,
    /// Whether products of prompts are those of Apple's matrix units.
    on_matrix_units: bool,
}

impl MslDevice {
    /// `binding` and `threads` are limits, as in [`GpuOptions`](crate::compute::gpu::GpuOptions); `answers` what the
    /// script read, once it has run.
    pub(crate) fn new(
        folder: PathBuf,
        recording: Arc<Recording>,
        context: usize,
        experts: Option<Experts>,
        (binding, threads): (u64, u32),
        answers: Option<Vec<u8>>,
    ) -> Self {
        // Apple's GPUs allow 1,024 threads, and more bytes than a test has
        let (binding, threads) = (binding.min(1 << 30), threads.clamp(256, 1024) as usize);
        let scratch = |step: &Recorded| match step {
            Recorded::Kernel { kernel, .. } => kernel.scratch_bytes(context, recording.max_tokens),
            _ => 0,
        };
        let one = |step: &Recorded| match step {
            Recorded::Kernel { kernel, .. } => kernel.scratch_bytes(context, 1),
            _ => 0,
        };
        let all = recording.steps.iter().map(scratch).max().unwrap_or(0).min(binding as usize);
        let least = recording.steps.iter().map(one).max().unwrap_or(0);
        let layout = Layout {
            binding,
            threads,
            context,
            matrices: recording.matrices.iter().map(|m| (m.cols, m.format, parts(m, binding))).collect(),
            vectors: vector_offsets(&recording),
            kv_rows: recording
                .caches
                .iter()
                .map(|cache| cache.streams.iter().map(CacheStream::row_bytes).max().unwrap_or(1))
                .collect(),
            scratch: all.max(least).max(16),
            looked_up: None,
            slab: None,
            deep_attention: None,
            on_matrix_units: false,
        };
        MslDevice {
            folder,
            recording,
            experts,
            layout,
            script: Script::default(),
            buffers: HashMap::new(),
            written: HashMap::new(),
            answers: answers.map(|bytes| (bytes, 0)),
        }
    }

    /// Kernels look slots up, and nobody hears what the router chose.
    pub(crate) fn look_up(&mut self) {
        self.layout.looked_up = self.experts.as_ref().map(|experts| experts.layout.layers[0].experts);
        self.layout.slab = (self.slabs() == 1).then(|| ExpertSlab { number: 0, slot_bytes: self.slot_bytes() });
    }

    /// Tokens take the tiles of prompts from so many positions on.
    pub(crate) fn deepen(&mut self, from: Option<usize>) {
        self.layout.deep_attention = from;
    }

    /// Matrix units make the products of prompts.
    pub(crate) fn use_matrix_units(&mut self) {
        self.layout.on_matrix_units = true;
    }

    /// The script of all that was asked for.
    pub(crate) fn into_script(self) -> Script {
        self.script
    }

    fn buffer(&mut self, resource: Resource) -> Range {
        let resource = resource.whole();
        if let Some(range) = self.buffers.get(&resource) {
            return *range;
        }
        let contents = self.contents(resource);
        let size = match &contents {
            Ok(bytes) => bytes.len(),
            Err(size) => (*size).max(16).next_multiple_of(16),
        };
        let range = self.script.buffer(size);
        if let Ok(bytes) = contents {
            self.script.write(range, 0, &bytes);
        }
        self.buffers.insert(resource, range);
        range
    }

    /// What a resource holds at first, or its size where that is nothing.
    fn contents(&self, resource: Resource) -> Result<Vec<u8>, usize> {
        let recording = &self.recording;
        let pairs = recording.max_tokens * self.experts.as_ref().map_or(0, |experts| experts.top_k);
        match resource {
            Resource::Tensor(tensor) | Resource::Columns(View { tensor, .. }) => Err(recording.elements(tensor) * 4),
            Resource::Vector(vector) => {
                let mut bytes: Vec<u8> = bytemuck::cast_slice(&recording.vectors[vector.0].1).to_vec();
                bytes.resize(bytes.len().next_multiple_of(16), 0xff);
                Ok(bytes)
            }
            Resource::Vectors => {
                let mut bytes = Vec::new();
                for ((_, values), at) in recording.vectors.iter().zip(&self.layout.vectors) {
                    bytes.resize(at * 4, 0xff);
                    bytes.extend_from_slice(bytemuck::cast_slice(values));
                }
                bytes.resize(bytes.len().next_multiple_of(16).max(16), 0xff);
                Ok(bytes)
            }
            Resource::Matrix(matrix, part) => Ok(self.matrix_bytes(matrix, part)),
            Resource::Cache(kv, stream, window) => {
                let rows = self.layout.cache_window(kv);
                Err(rows.min(self.layout.context - window * rows) * recording.caches[kv.0].streams[stream].row_bytes())
            }
            Resource::Rope => Err(256 * 4 * recording.max_tokens),
            Resource::Scratch => Err(self.layout.scratch),
            Resource::Scratch2 => Err(self.layout.scratch),
            Resource::Slab(slab) => Ok(self.slab(slab)),
            Resource::Pairs => Err(pairs * 16),
            // and room that is left over
            Resource::Tiles => Err(2 * pairs * 16),
            Resource::Slots if self.layout.looked_up.is_some() => {
                let (slots, per_slab) = (self.slabs() * self.slots_per_slab(), self.slots_per_slab());
                let places = (0..slots).flat_map(|slot| [(slot % per_slab) as u32, (slot / per_slab) as u32]);
                Ok(bytemuck::pod_collect_to_vec(&places.collect::<Vec<u32>>()))
            }
            Resource::Slots => Err(16),
            Resource::Totals => Err(8 * 64),
            Resource::Codebook(book) => Ok(bytemuck::cast_slice(book.words()).to_vec()),
        }
    }

    fn matrix_bytes(&self, matrix: MatrixId, part: usize) -> Vec<u8> {
        let part = self.layout.matrices[matrix.0].2[part];
        let rows = self.recording.matrices[matrix.0].slice_rows(part.first..part.first + part.rows);
        let mut bytes = Vec::new();
        for (stream, at) in part.streams.into_iter().enumerate() {
            bytes.resize(at as usize * 4, 0xff);
            rows.blocks.iter().for_each(|block| bytes.extend_from_slice(&block.streams[stream]));
        }
        bytes.resize(bytes.len().next_multiple_of(SECTION), 0xff);
        bytes
    }

    fn slot_bytes(&self) -> usize {
        self.experts.as_ref().map_or(0, |experts| experts.layout.slot_bytes().next_multiple_of(256))
    }

    /// Every expert of every layer has a slot; a slab holds as many as a binding covers.
    fn slots_per_slab(&self) -> usize {
        let experts = self.experts.as_ref().map_or(0, |e| e.layout.experts());
        (self.layout.binding as usize / self.slot_bytes()).clamp(1, experts)
    }

    fn slabs(&self) -> usize {
        let Some(experts) = &self.experts else { return 0 };
        experts.layout.experts().div_ceil(self.slots_per_slab())
    }

    fn slab(&self, slab: usize) -> Vec<u8> {
        let layout = &self.experts.as_ref().unwrap().layout;
        let slots = self.slots_per_slab();
        let mut bytes = vec![0xff; self.slot_bytes() * slots];
        for (place, expert) in (slab * slots..(slab + 1) * slots).enumerate() {
            let Some(layer) = layout.layers.get(expert / layout.layers[0].experts) else { break };
            for part in &layer.parts {
                let Place::Strided { file, base, stride } = part.place else { panic!("experts of trials are stacked") };
                let ExpertFile::Memory { bytes: file, .. } = &layout.files[file as usize] else {
                    panic!("experts of trials are in memory")
                };
                let from = (base + stride * (expert % layout.layers[0].experts) as u64) as usize;
                let to = place * self.slot_bytes() + part.at;
                bytes[to..to + part.len].copy_from_slice(&file[from..from + part.len]);
            }
        }
        bytes
    }

    /// Dispatches of `stages`.
    pub(crate) fn dispatch(&mut self, stages: &[Stage], dispatches: &[Dispatch]) {
        for dispatch in dispatches {
            let stage = &stages[dispatch.stage];
            let kernel = script::kernel(&self.folder, stage.shader, &stage.constants);
            let mut bindings: Vec<Range> = Vec::new();
            for (place, binding) in stage.groups[dispatch.group].iter().enumerate() {
                let range = self.buffer(binding.1);
                // numbers that no binding has are never read
                bindings.resize(binding.number(place) as usize, range);
                bindings.push(range);
            }
            self.script.dispatch(kernel, dispatch.grid, dispatch.immediates.bytes(), &bindings);
        }
    }

    /// As the executor does where all experts are resident.
    fn look_up_experts(&mut self, op: &ops::Experts, experts: usize, step: &Step) {
        let (slot_bytes, pairs) = (self.slot_bytes(), step.tokens * op.out.rows_per_token);
        let mut dispatches = Vec::new();
        for slab in 0..self.slabs() {
            match step.phase {
                Phase::Decode => op.dispatch(&self.layout, slab, 0, pairs, slot_bytes, &mut dispatches),
                Phase::Prefill => {
                    let mut first = 0;
                    for (kind, room) in ops::expert_groups::rooms(pairs, experts).into_iter().enumerate() {
                        let tiles = first..first + room;
                        first = tiles.end;
                        op.dispatch_tiles(self.layout.cooperative(), slab, kind, tiles, slot_bytes, &mut dispatches);
                    }
                }
            }
        }
        dispatches.retain(|dispatch| dispatch.grid[2] > 0);
        op.join(step.phase, 0, pairs, &mut dispatches);
        let stages = op.stages(&self.layout, self.slabs());
        self.dispatch(&stages, &dispatches);
    }

    fn run_experts(&mut self, op: &ops::Experts, ids: &[u32], step: &Step) {
        if let Some(experts) = self.layout.looked_up {
            return self.look_up_experts(op, experts, step);
        }
        let (experts, slots, top_k) =
            (self.experts.as_ref().unwrap().layout.layers[0].experts, self.slots_per_slab(), op.out.rows_per_token);
        let pair = |(row, id): (usize, &u32)| {
            let slot = op.layer * experts + *id as usize;
            Pair {
                token: (row / top_k) as u32,
                row: row as u32,
                slot: (slot % slots) as u32,
                slab: (slot / slots) as u32,
            }
        };
        let mut pairs: Vec<Pair> = ids.iter().enumerate().map(pair).collect();
        pairs.sort_by_key(|pair| (pair.slab, pair.slot, pair.row));
        let buffer = self.buffer(Resource::Pairs);
        self.script.write(buffer, 0, bytemuck::cast_slice(&pairs));
        let (stages, mut dispatches, mut first) = (op.stages(&self.layout, self.slabs()), Vec::new(), 0);
        let slot_bytes = self.slot_bytes();
        match step.phase {
            Phase::Decode => {
                for run in pairs.chunk_by(|a, b| a.slab == b.slab) {
                    let slab = run[0].slab as usize;
                    op.dispatch(&self.layout, slab, first, run.len(), slot_bytes, &mut dispatches);
                    first += run.len();
                }
            }
            Phase::Prefill => {
                let tiles = crate::compute::routing::tiles(&pairs, 0);
                let buffer = self.buffer(Resource::Tiles);
                self.script.write(buffer, 0, bytemuck::cast_slice(&tiles));
                for run in tiles.chunk_by(|a, b| (a.slab, a.kind()) == (b.slab, b.kind())) {
                    let slab = run[0].slab as usize;
                    let tiles = first..first + run.len();
                    op.dispatch_tiles(
                        self.layout.cooperative(),
                        slab,
                        run[0].kind(),
                        tiles,
                        slot_bytes,
                        &mut dispatches,
                    );
                    first += run.len();
                }
            }
        }
        op.join(step.phase, 0, pairs.len(), &mut dispatches);
        self.dispatch(&stages, &dispatches);
    }

    fn answer(&mut self, bytes: usize) -> Vec<f32> {
        let Some((all, at)) = &mut self.answers else { return vec![0.0; bytes / 4] };
        *at += bytes;
        bytemuck::pod_collect_to_vec(&all[*at - bytes..*at])
    }

    fn read_resource(&mut self, resource: Resource, elements: usize) -> Vec<f32> {
        let from = self.buffer(resource);
        self.script.read(from, elements * 4);
        self.answer(elements * 4)
    }

    /// Makes both scratch buffers of a size, before they are used.
    pub(crate) fn make_scratch(&mut self, bytes: usize) {
        self.layout.scratch = bytes;
    }

    /// The first scratch buffer or the second.
    pub(crate) fn read_scratch(&mut self, which: usize, elements: usize) -> Vec<f32> {
        self.read_resource([Resource::Scratch, Resource::Scratch2][which], elements)
    }
}

/// Vectors start at multiples of 4 elements; here with some between them that nobody may read.
fn vector_offsets(recording: &Recording) -> Vec<usize> {
    let mut next = 0;
    let begin = |(_, values): &(String, Arc<Vec<f32>>)| {
        let at = next;
        next = (at + values.len() + 1).next_multiple_of(4);
        at
    };
    recording.vectors.iter().map(begin).collect()
}

/// Rows of a matrix that a binding covers, as the GPU executor cuts them.
fn parts(matrix: &Matrix, binding: u64) -> Vec<MatrixPart> {
    let (cols, format) = (matrix.cols, matrix.format);
    let most = ((binding as usize - 3 * SECTION - 256) / format.matrix_bytes(1, cols)).max(1);
    let part = |first: usize| {
        let rows = most.min(matrix.rows - first);
        let [codes, scales, _] = format.stream_bytes(cols).map(|row| (rows * row).next_multiple_of(SECTION));
        MatrixPart { first, rows, streams: [0, (codes / 4) as u32, ((codes + scales) / 4) as u32] }
    };
    (0..matrix.rows).step_by(most).map(part).collect()
}

impl ResidentLayout for Layout {
    fn matrix_parts(&self, matrix: MatrixId) -> &[MatrixPart] {
        &self.matrices[matrix.0].2
    }

    fn matrix(&self, matrix: MatrixId) -> (usize, WeightFormat) {
        let (cols, format, _) = &self.matrices[matrix.0];
        (*cols, *format)
    }

    fn vector_offset(&self, vector: VectorId) -> usize {
        self.vectors[vector.0]
    }

    fn cache_window(&self, kv: CacheId) -> usize {
        let most = (self.binding / (self.kv_rows[kv.0] as u64)) as usize / WINDOW_STEP * WINDOW_STEP;
        most.max(WINDOW_STEP).min(self.context.next_multiple_of(WINDOW_STEP))
    }

    fn cache_windows(&self, kv: CacheId) -> usize {
        self.context.div_ceil(self.cache_window(kv))
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn all_resident(&self) -> bool {
        self.looked_up.is_some()
    }

    fn first_slot(&self, moe_layer: usize) -> usize {
        moe_layer * self.looked_up.unwrap_or_default()
    }

    fn expert_slab(&self, _: usize) -> Option<ExpertSlab> {
        self.slab
    }

    fn cooperative(&self) -> Option<Form> {
        self.on_matrix_units.then_some(Form::F32)
    }
    fn deep_attention(&self) -> Option<usize> {
        self.deep_attention
    }

    fn team(&self, shape: &ProductShape) -> ops::Team {
        shape.team()
    }
}

impl Device for MslDevice {
    fn reset(&mut self) {
        for tensor in self.recording.state.clone() {
            let zeros = vec![0.0; self.recording.elements(tensor)];
            self.write(tensor, &zeros);
        }
    }

    fn write(&mut self, tensor: TensorId, values: &[f32]) {
        let to = self.buffer(Resource::Tensor(tensor));
        self.script.write(to, 0, bytemuck::cast_slice(values));
        self.written.insert(tensor, values.to_vec());
    }

    fn read(&mut self, tensor: TensorId) -> Vec<f32> {
        self.read_resource(Resource::Tensor(tensor), self.recording.elements(tensor))
    }

    fn run(&mut self, step: Step, rope: &[f32]) {
        let to = self.buffer(Resource::Rope);
        self.script.write(to, 0, bytemuck::cast_slice(rope));
        let recording = self.recording.clone();
        let mut ids = Vec::new();
        for recorded in &recording.steps {
            match recorded {
                Recorded::Kernel { kernel, .. } => self.run_kernel(&**kernel, &step),
                Recorded::Route(_) if self.layout.looked_up.is_some() => {}
                Recorded::Route(route) => {
                    let rows = self.written[&route.ids.tensor].chunks_exact(route.ids.stride).take(step.tokens);
                    ids = rows.flat_map(|row| row[..route.ids.width].iter().map(|id| id.to_bits())).collect();
                }
                Recorded::Experts(op) => self.run_experts(op, &ids, &step),
                Recorded::LayerDone(_) => {}
            }
        }
    }

    fn read_kv(&mut self, kv: CacheId, positions: usize) -> [Vec<u8>; 2] {
        let rows = self.layout.cache_window(kv);
        [0, 1].map(|stream| {
            let row = self.recording.caches[kv.0].streams[stream].row_bytes();
            let windows = (0..positions.div_ceil(rows)).map(|w| (w, rows.min(positions - w * rows)));
            let read = |(w, held)| self.read_resource(Resource::Cache(kv, stream, w), held * row / 4);
            let words: Vec<f32> = windows.flat_map(read).collect();
            bytemuck::cast_slice(&words).to_vec()
        })
    }
}

impl MslDevice {
    fn run_kernel(&mut self, kernel: &dyn Kernel, step: &Step) {
        let mut dispatches = Vec::new();
        kernel.dispatch(&self.layout, step, &mut dispatches);
        let stages = kernel.stages(&self.layout);
        self.dispatch(&stages, &dispatches);
    }
}
