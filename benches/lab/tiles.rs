//! Products of many tokens, and of the experts of many tokens, with tiles of several sizes: operations a second.
//!
//! Weights lie in so many copies that caches hold one of them at most, as in a model. All tiles must give the same bits.

use flashflood::compute::gpu::Gpu;
use flashflood::compute::ops::{CooperativeTile, Tile};
use flashflood::compute::shaders::{self, Form};
use flashflood::weights::WeightFormat;
use flashflood_backends::gpu::MatrixUnits;
use flashflood_formats::{ScaleType, Scaled};

use super::device::{CODEBOOK, Call, buffer, layout, pipeline, quantise, read, seconds};

/// Bytes of weights that calls go through in turn, about.
const TOTAL: usize = 256 << 20;
/// Operations in one measurement, about.
const MEASURED: f64 = 1e12;
/// Experts of a layer.
const EXPERTS: usize = 512;

/// A product of many tokens.
#[derive(Clone, Copy)]
struct Case {
    /// `matmul`, `expert_matmul_gate_up` or `expert_matmul_down`; also `expert_matmul_cooperative_*`.
    kernel: &'static str,
    format: WeightFormat,
    form: Form,
    /// Of the weights.
    rows: usize,
    cols: usize,
    /// In all, or of each expert.
    tokens: usize,
}

impl Case {
    fn is_expert(&self) -> bool {
        self.kernel != "matmul"
    }

    /// Matrices that a call multiplies with.
    fn matrices(&self) -> usize {
        if self.is_expert() { EXPERTS } else { 1 }
    }

    /// Whether it is of gate and up.
    fn gates(&self) -> bool {
        self.kernel.ends_with("gate_up")
    }

    /// Whether matrix units make it.
    fn is_cooperative(&self) -> bool {
        self.kernel.contains("cooperative")
    }

    /// The units that there are kernels for.
    fn units(&self) -> MatrixUnits {
        if self.form == Form::F32 { MatrixUnits::By8 } else { MatrixUnits::By16 }
    }

    /// A tile of these units.
    fn tile(&self, [row_subgroups, token_subgroups, token_tiles]: [usize; 3]) -> CooperativeTile {
        let unit = if self.units() == MatrixUnits::By8 { 8 } else { 16 };
        CooperativeTile { unit, row_subgroups, token_subgroups, token_tiles, parts: 1 }
    }

    fn operations(&self) -> f64 {
        2.0 * (self.rows * self.cols * self.tokens * self.matrices()) as f64
    }

    /// Rows of the output.
    fn out_rows(&self) -> usize {
        if self.gates() { self.rows / 2 } else { self.rows }
    }

    /// Rows of the output that a workgroup makes.
    fn tile_rows(&self, tile: Tile) -> usize {
        if self.gates() { tile.rows() / 2 } else { tile.rows() }
    }

    /// Tiles worth a try: those of the program, and some that it could have.
    fn tiles(&self) -> Vec<Tile> {
        let tile = Tile::new;
        let all = [
            tile(16, 4, 1),
            tile(32, 4, 1),
            tile(16, 4, 2),
            tile(32, 4, 2),
            tile(8, 8, 4),
            tile(16, 8, 4),
            tile(8, 16, 2),
            tile(8, 16, 4),
            tile(8, 16, 8),
            tile(16, 16, 4),
            tile(16, 16, 8),
            tile(8, 32, 8),
        ];
        let fits = |tile: &Tile| {
            let is_near = tile.tokens() <= self.tokens.next_power_of_two().max(16) && self.tokens <= 32 * tile.tokens();
            // gate and up: a group of 32 hidden values is quantised by one workgroup
            is_near && (!self.gates() || tile.rows() == 64 && tile.row_sums > 1) && !self.is_cooperative()
        };
        all.into_iter().filter(fits).collect()
    }
}

const FP8: WeightFormat = WeightFormat::Scaled(Scaled::fp8(128, ScaleType::Bf16));

fn cases() -> Vec<Case> {
    let (q4, affine) = (WeightFormat::affine(4, 64), |bits| WeightFormat::affine(bits, 64));
    let mut cases = Vec::new();
    let mut product = |format: WeightFormat, rows, tokens| {
        for form in [Form::F32, Form::Int8] {
            if form == Form::F32 || format.interleave().is_some() {
                cases.push(Case { kernel: "matmul", format, form, rows, cols: 4096, tokens });
            }
        }
    };
    for rows in [4096, 16384] {
        [16, 64, 512, 2048].into_iter().for_each(|tokens| product(q4, rows, tokens));
    }
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16] {
        product(format, 4096, 2048);
    }
    for bits in [2, 3, 5, 6, 8] {
        product(affine(bits), 4096, 2048);
    }
    [64, 2048].into_iter().for_each(|tokens| product(FP8, 4096, tokens));
    for form in [Form::F32, Form::Int8] {
        for (kernel, rows, cols) in [("expert_matmul_gate_up", 2048, 4096), ("expert_matmul_down", 4096, 1024)] {
            for tokens in [10, 80] {
                cases.push(Case { kernel, format: q4, form, rows, cols, tokens });
                cases.push(Case { kernel, format: FP8, form, rows, cols, tokens });
            }
        }
    }
    for (kernel, rows, cols) in
        [("expert_matmul_cooperative_gate_up", 2048, 4096), ("expert_matmul_cooperative_down", 4096, 1024)]
    {
        // of integers in 4 bits there are none
        for (format, form) in [(FP8, Form::Int8), (FP8, Form::F32), (q4, Form::F32)] {
            cases.extend([10, 80].map(|tokens| Case { kernel, format, form, rows, cols, tokens }));
        }
    }
    cases
}

/// Prints a table of the kernels whose name contains `wanted`.
pub(crate) fn run(gpu: &Gpu, wanted: &str) {
    println!("| version | rows | cols | tokens | tile | us | TFLOP/s |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for case in cases() {
        let shader = shaders::variant(case.kernel, case.form, case.format.suffix());
        let has_units = gpu.matrix_units == Some(case.units());
        if !shader.contains(wanted) || case.is_cooperative() && !has_units {
            continue;
        }
        let bench = Bench::new(gpu, case);
        let mut expected: Option<Vec<u32>> = None;
        if case.kernel == "matmul" && has_units {
            cooperative(&bench);
        }
        if case.is_cooperative() {
            cooperative_experts(&bench);
        }
        for tile in case.tiles() {
            let best = bench.time(shader, tile);
            let Case { rows, cols, tokens, .. } = case;
            let (name, rate) = (format!("{}x{}", tile.rows(), tile.tokens()), case.operations() / best / 1e12);
            let Tile { row_threads, token_threads, row_sums, .. } = tile;
            let version = format!("{shader} {row_threads}/{token_threads} x{row_sums}");
            println!("| {version} | {rows} | {cols} | {tokens} | {name} | {:.1} | {rate:.1} |", best * 1e6);
            let found: Vec<u32> = read(gpu, &bench.out, (case.out_rows() * case.tokens * 4) as u64);
            if found.iter().all(|v| *v == 0) || found.iter().any(|v| f32::from_bits(*v).is_nan()) {
                println!("  wrong: nothing, or no numbers");
            }
            if *expected.get_or_insert_with(|| found.clone()) != found {
                println!("  wrong: other bits than the first");
            }
        }
    }
}

/// Measures the product by matrix units, and compares it with that without: f16 has 11 bits, so that outputs differ by little of
/// the largest one.
fn cooperative(bench: &Bench<'_>) {
    let Case { format, form, rows, cols, tokens, .. } = bench.case;
    let bytes = (rows * tokens * 4) as u64;
    bench.time(shaders::variant("matmul", form, format.suffix()), Tile::MATRIX[1]);
    let expected: Vec<f32> = read(bench.gpu, &bench.out, bytes);
    let size = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let shape = flashflood::compute::ops::ProductShape::new("matmul_cooperative", form, format, rows, cols);
    let mut first: Option<Vec<u32>> = None;
    for tile in [[2, 1, 1], [4, 1, 1], [2, 1, 4], [4, 1, 4], [4, 2, 4]].map(|of| bench.case.tile(of)) {
        // a workgroup brings one block of a row or two a thread
        if tile.rows().max(tile.tokens()) > 32 * tile.row_subgroups * tile.token_subgroups {
            continue;
        }
        let grid = [rows.div_ceil(tile.rows()) as u32, 1, tokens.div_ceil(tile.tokens()) as u32];
        let best = bench.time_with(shape.shader(), &shape.cooperative_constants(tile), grid);
        let rate = bench.case.operations() / best / 1e12;
        print(&bench.case, shape.shader(), tile, best, rate);
        let found: Vec<u32> = read(bench.gpu, &bench.out, bytes);
        let errors = found.iter().zip(&expected).map(|(f, e)| (f32::from_bits(*f) - e).abs());
        let error = errors.fold(0.0f32, |most, e| if e > most || e.is_nan() { e } else { most });
        if error.is_nan() || error > 0.002 * size {
            println!("  wrong: differs by {error} of {size}");
        }
        if *first.get_or_insert_with(|| found.clone()) != found {
            println!("  wrong: other bits than the first");
        }
    }
}

fn print(case: &Case, shader: &str, tile: CooperativeTile, best: f64, rate: f64) {
    let Case { rows, cols, tokens, .. } = case;
    let CooperativeTile { row_subgroups, token_subgroups, token_tiles, .. } = tile;
    let version = format!("{shader} {row_subgroups}/{token_subgroups} x{token_tiles}");
    let name = format!("{}x{}", tile.rows(), tile.tokens());
    println!("| {version} | {rows} | {cols} | {tokens} | {name} | {:.1} | {rate:.1} |", best * 1e6);
}

/// Measures products of experts by matrix units.
fn cooperative_experts(bench: &Bench<'_>) {
    let Case { kernel, format, form, rows, cols, .. } = bench.case;
    let shape = flashflood::compute::ops::ProductShape::new(kernel, form, format, rows, cols);
    for tile in [[2, 1, 1], [4, 1, 1], [2, 1, 4], [4, 1, 4]].map(|of| bench.case.tile(of)) {
        if bench.case.gates() && !tile.rows().is_multiple_of(64) {
            continue;
        }
        let mut constants = shape.cooperative_constants(tile);
        if bench.case.gates() {
            constants.push(("quantisers", 32.0 * tile.row_subgroups as f64));
        }
        let layers = bench.cut(tile.tokens());
        let best = bench.time_with(shape.shader(), &constants, [rows.div_ceil(tile.rows()) as u32, 1, layers as u32]);
        print(&bench.case, shape.shader(), tile, best, bench.case.operations() / best / 1e12);
    }
}

/// Buffers of a case.
struct Bench<'a> {
    gpu: &'a Gpu,
    case: Case,
    /// Words of sections: codes, scales, biases.
    sections: [u32; 3],
    /// Bytes of a matrix.
    slot: usize,
    /// Matrices in the one buffer of experts; or buffers of a matrix.
    slots: usize,
    weights: Vec<wgpu::Buffer>,
    /// What the products read: as it is, or packed.
    x: wgpu::Buffer,
    /// Bytes of a row of it.
    row_bytes: usize,
    pairs: wgpu::Buffer,
    tiles: wgpu::Buffer,
    out: wgpu::Buffer,
    layout: wgpu::BindGroupLayout,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, case: Case) -> Self {
        let Case { format, rows, cols, .. } = case;
        let [codes, scales, _] = format.stream_bytes(cols).map(|row| rows * row);
        let slot = (codes + 2 * scales).next_multiple_of(256);
        let binding = gpu.limits.max_storage_buffer_binding_size.min(1 << 30) as usize;
        let slots = (if case.is_expert() { binding } else { TOTAL } / slot).clamp(1, 64.max(case.matrices()));
        let (buffers, in_each) = if case.is_expert() { (1, slots) } else { (slots, 1) };
        let weights: Vec<_> = (0..buffers).map(|_| buffer(gpu, in_each * slot)).collect();
        let bytes = weights_of(format, codes, scales);
        for weights in &weights {
            (0..in_each).for_each(|i| gpu.queue.write_buffer(weights, (i * slot) as u64, &bytes));
            gpu.queue.submit([]);
        }
        // rows of gate and up are of tokens, those of down of pairs; all experts have their own here
        let all = case.tokens * case.matrices();
        let f32s = buffer(gpu, all * cols * 4);
        let values: Vec<f32> = (0..all * cols).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect();
        gpu.queue.write_buffer(&f32s, 0, bytemuck::cast_slice(&values));
        let packed_bytes = cols + cols / 4;
        let (x, row_bytes) = match (case.form, format.interleave()) {
            (Form::Int8, Some(interleave)) => {
                let packed = buffer(gpu, all * packed_bytes);
                quantise(gpu, interleave, cols, all, &f32s, &packed);
                (packed, packed_bytes)
            }
            _ => (f32s, cols * 4),
        };
        let pairs: Vec<[u32; 4]> = (0..all as u32).map(|i| [i, i, 0, 0]).collect();
        let pair_buffer = buffer(gpu, pairs.len() * 16);
        gpu.queue.write_buffer(&pair_buffer, 0, bytemuck::cast_slice(&pairs));
        Bench {
            gpu,
            case,
            sections: [0, (codes / 4) as u32, ((codes + scales) / 4) as u32],
            slot,
            slots,
            weights,
            x,
            row_bytes,
            pairs: pair_buffer,
            tiles: buffer(gpu, all * 16),
            out: buffer(gpu, all * case.out_rows() * 4),
            layout: layout(gpu, if case.is_expert() { 5 } else { 3 }),
        }
    }

    /// Seconds a call.
    fn time(&self, shader: &'static str, tile: Tile) -> f64 {
        let case = self.case;
        let shape =
            flashflood::compute::ops::ProductShape::new(case.kernel, case.form, case.format, case.rows, case.cols);
        let mut constants = shape.tile_constants(tile);
        if case.gates() {
            constants.push(("quantisers", tile.threads() as f64));
        }
        let row_groups = case.out_rows().div_ceil(case.tile_rows(tile)) as u32;
        let layers = if case.is_expert() { self.cut(tile.tokens()) } else { case.tokens.div_ceil(tile.tokens()) };
        self.time_with(shader, &constants, [row_groups, 1, layers as u32])
    }

    /// Cuts the pairs of all experts into tiles of so many, and says how many there are.
    fn cut(&self, tokens: usize) -> usize {
        let case = self.case;
        let tiles: Vec<[u32; 4]> = (0..case.matrices())
            .flat_map(|expert| {
                (0..case.tokens).step_by(tokens).map(move |first| {
                    let count = tokens.min(case.tokens - first);
                    [(expert * case.tokens + first) as u32, count as u32, (expert % self.slots) as u32, 0]
                })
            })
            .collect();
        self.gpu.queue.write_buffer(&self.tiles, 0, bytemuck::cast_slice(&tiles));
        tiles.len()
    }

    /// Seconds a call of a shader with so many workgroups.
    fn time_with(&self, shader: &'static str, constants: &[(&str, f64)], grid: [u32; 3]) -> f64 {
        let case = self.case;
        let (source, entry) = shaders::source(shader).unwrap();
        let pipeline = pipeline(self.gpu, &self.layout, &source, entry, constants);
        let is_software = self.gpu.info.device_type == wgpu::DeviceType::Cpu;
        let runs = if is_software { 1 } else { (MEASURED / case.operations()).clamp(2.0, 400.0) as usize };
        let groups: Vec<_> = self.weights.iter().map(|weights| self.group(weights)).collect();
        let calls: Vec<Call<'_>> =
            (0..runs).map(|i| Call { group: &groups[i % groups.len()], immediates: self.immediates(), grid }).collect();
        seconds(self.gpu, &pipeline, &calls) / runs as f64
    }

    fn group(&self, weights: &wgpu::Buffer) -> wgpu::BindGroup {
        let all = [&self.x, weights, &self.out, &self.pairs, &self.tiles];
        let bindings = if self.case.is_expert() { &all[..] } else { &all[..3] };
        // in the place of a codebook something that is not read
        let entries: Vec<_> = (0..)
            .zip(bindings)
            .chain([(CODEBOOK, &&self.tiles)])
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries,
        })
    }

    fn immediates(&self) -> [u32; 16] {
        let Case { cols, tokens, .. } = self.case;
        let (rows, blocks, x_stride) = (self.case.out_rows() as u32, (cols / 32) as u32, (self.row_bytes / 16) as u32);
        let [codes, scales, biases] = self.sections;
        let mut all = [0; 16];
        if self.case.is_expert() {
            let slot_words = (self.slot / 4) as u32;
            let of_tiles = [rows, blocks, u32::MAX, 0, 0, x_stride, rows, slot_words, codes, scales, biases];
            all[..of_tiles.len()].copy_from_slice(&of_tiles);
        } else {
            let of_x = [u32::MAX, 0, x_stride, 0, rows, 0, 0, tokens as u32];
            all[..2].copy_from_slice(&[rows, blocks]);
            all[2..10].copy_from_slice(&of_x);
            all[10..13].copy_from_slice(&[codes, scales, biases]);
        }
        all
    }
}

/// Weights around 0 that a result can be told from, codes of all kinds.
fn weights_of(format: WeightFormat, codes: usize, scales: usize) -> Vec<u8> {
    let mixed = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).rotate_left(i as u32 % 31);
    let small = |i: usize| (mixed(i) % 2001) as f32 / 1000.0 - 1.0;
    let mut bytes: Vec<u8> = match format {
        WeightFormat::F32 => (0..codes / 4).flat_map(|i| small(i).to_le_bytes()).collect(),
        // 0.5 to 1 and a bit, of either sign, whether bf16 or f16
        WeightFormat::F16 | WeightFormat::Bf16 => {
            (0..codes / 2).flat_map(|i| (0x3880u16 | (mixed(i) as u16 & 0x807f)).to_le_bytes()).collect()
        }
        WeightFormat::Affine(_) | WeightFormat::Block(_) | WeightFormat::Scaled(_) => {
            (0..codes / 4).flat_map(|i| mixed(i).to_le_bytes()).collect()
        }
    };
    // bf16
    bytes.extend((0..scales / 2).flat_map(|i| (0x3c00u16 + (i % 97) as u16).to_le_bytes()));
    bytes.extend((0..scales / 2).flat_map(|i| (0xbd00u16 + (i % 89) as u16).to_le_bytes()));
    bytes
}
