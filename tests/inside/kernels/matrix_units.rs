//! The kernels of matrix units on devices that have none: what a unit does, 32 threads do here, each for 8 of its 256 sums
//! and in f32. So everything around the units is held against the same products without them: which columns, rows and
//! tokens they get, edges, and where sums go. Whether a device's units are right, `check` says there.

use bytemuck::cast_slice;
use flashflood_formats::{Scaled, pack_row};

use super::random::Random;
use super::trial::gpu;
use crate::compute::ops::{CooperativeTile, ProductShape, Quantised, Tile};
use crate::compute::shaders::{self, Form};
use crate::weights::{ScaleType, WeightFormat};

/// What takes the place of units. Matrices of 16 rows, or tokens, times 16 columns are where they lie: (first quad, quads from
/// one to the next); a thread has the sums of one row for 8 tokens.
const UNITS: &str = "
    var<private> lane: u32;
    fn multiply_add(a: vec2<u32>, b: vec2<u32>, c: mat2x4<f32>) -> mat2x4<f32> {
        var sums = c;
        for (var i = 0u; i < 8u; i++) {
            let row = a.x + lane % 16u * a.y;
            let token = b.x + (lane / 16u * 8u + i) * b.y;
            for (var k = 0u; k < 4u; k++) {
                sums[i / 4u][i % 4u] += dot(halves_of_rows[row + k], halves_of_tokens[token + k]);
            }
        }
        return sums;
    }";

/// Sums that units keep, to and from memory that is called `NAME`.
const MEMORY: &str = "
    fn store_NAME(sums: mat2x4<f32>, at: u32, stride: u32) {
        for (var i = 0u; i < 8u; i++) {
            NAME[at + (lane / 16u * 8u + i) * stride + lane % 16u] = sums[i / 4u][i % 4u];
        }
    }
    fn load_NAME(at: u32, stride: u32) -> mat2x4<f32> {
        var sums: mat2x4<f32>;
        for (var i = 0u; i < 8u; i++) {
            sums[i / 4u][i % 4u] = NAME[at + (lane / 16u * 8u + i) * stride + lane % 16u];
        }
        return sums;
    }";

/// A kernel without units.
fn without_units(source: &str) -> String {
    let mut text: String = source.lines().filter(|line| !line.starts_with("enable")).flat_map(|l| [l, "\n"]).collect();
    text = text.replace("vec4<f16>", "vec4<f32>").replace("coopMultiplyAdd(", "multiply_add(");
    text = text.replace("coopLoadT<coop_mat16x16<f16, A>>(&halves_of_rows[", "vec2<u32>(");
    text = text.replace("coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[", "vec2<u32>(");
    for stride in ["stride", "sum_stride", "out_stride", "16u"] {
        text = text.replace(&format!("], {stride})"), &format!(", {stride})"));
    }
    for name in ["out", "edge", "sums_of_tile"] {
        text = text.replace(&format!("coopLoad<coop_mat16x16<f32, C>>(&{name}["), &format!("load_{name}("));
        for sums in ["all", "sums", "c0", "c1", "c2", "c3"] {
            text = text.replace(&format!("coopStore({sums}, &{name}["), &format!("store_{name}({sums}, "));
        }
        if text.contains(&format!("store_{name}(")) {
            text += &MEMORY.replace("NAME", name);
        }
    }
    text = text.replace("coop_mat16x16<f32, C>", "mat2x4<f32>");
    let entry = "local_invocation_index) local: u32) {\n";
    assert_eq!(text.matches(entry).count(), 1, "one entry point");
    text = text.replace(entry, &format!("{entry}    lane = local % 32u;\n"));
    assert!(["coop_", "coopLoad", "coopStore"].iter().all(|of_units| !text.contains(of_units)), "{text}");
    text + UNITS
}

/// A product with all that it reads.
struct Product {
    buffers: Vec<wgpu::Buffer>,
    immediates: Vec<u32>,
    outputs: usize,
}

fn buffer(words: &[u32]) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let size = (words.len() as u64 * 4).next_multiple_of(16);
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    let buffer = gpu().device.create_buffer(&descriptor);
    gpu().queue.write_buffer(&buffer, 0, cast_slice(words));
    buffer
}

impl Product {
    /// Of `rows` rows with `tokens` tokens; those of experts are pairs in `tiles`, (first, count) each, in any order.
    fn new(format: WeightFormat, [rows, cols, tokens, outputs]: [usize; 4], tiles: Option<&[[u32; 2]]>) -> Self {
        let mut random = Random::new(3);
        let x_words = Quantised::words(cols).next_multiple_of(4);
        let mut x = vec![0.0f32; tokens * x_words];
        for row in x.chunks_mut(x_words) {
            pack_row(&random.floats(cols, -1.0, 1.0), format.interleave().unwrap(), row);
        }
        let (mut weights, mut streams) = (Vec::new(), Vec::new());
        for stream in random.weights(format, rows, cols) {
            streams.push(weights.len() as u32 / 4);
            weights.extend(stream);
            weights.resize(weights.len().next_multiple_of(16), 0);
        }
        // another number everywhere, so that what is not written is seen
        let filled: Vec<u32> = random.floats(tokens * outputs, 1.0, 2.0).iter().map(|v| v.to_bits()).collect();
        let mut buffers = vec![buffer(cast_slice(&x)), buffer(cast_slice(&weights)), buffer(&filled)];
        let (blocks, x_stride, outputs) = (cols as u32 / 32, x_words as u32 / 4, outputs as u32);
        // a kernel of gate and up counts the rows of one of them
        let counted = if tiles.is_some() { outputs } else { rows as u32 };
        let mut immediates = vec![counted, blocks, 1 << 16];
        if let Some(tiles) = tiles {
            let rows_of_pairs = random.distinct(tokens, tokens);
            let pairs = rows_of_pairs.iter().map(|row| [*row as u32, *row as u32, 0, 0]).collect::<Vec<_>>();
            let tiles: Vec<[u32; 4]> = tiles.iter().map(|[first, pairs]| [*first, *pairs, 0, 0]).collect();
            buffers.extend([buffer(cast_slice(&pairs)), buffer(cast_slice(&tiles))]);
            immediates.extend([0, x_stride, outputs, 0]);
        } else {
            immediates.extend([0, x_stride, 0, outputs, 1, 0, tokens as u32]);
        }
        immediates.extend(streams);
        Product { buffers, immediates, outputs: tokens * outputs as usize }
    }

    /// The outputs of a shader, with units that are made of threads where it wants some.
    fn run(&self, shader: &str, constants: &[(&str, f64)], grid: [u32; 3]) -> Vec<f32> {
        let (source, entry) = shaders::source(shader).unwrap();
        let source = if source.contains("coop_mat") { without_units(&source) } else { source };
        let (device, queue) = (gpu().device, gpu().queue);
        let source = wgpu::ShaderSource::Wgsl(source.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(shader), source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
            cache: None,
        });
        let out = buffer(&vec![0; self.outputs]);
        let bytes = self.outputs as u64 * 4;
        let entries = self.buffers.iter().enumerate().map(|(i, buffer)| wgpu::BindGroupEntry {
            binding: i as u32,
            resource: if i == 2 { &out } else { buffer }.as_entire_binding(),
        });
        let entries: Vec<_> = entries.collect();
        let layout = pipeline.get_bind_group_layout(0);
        let group =
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
        let read = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.buffers[2], 0, &out, 0, bytes);
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.set_immediates(0, cast_slice(&self.immediates));
            pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        }
        encoder.copy_buffer_to_buffer(&out, 0, &read, 0, bytes);
        queue.submit([encoder.finish()]);
        read.map_async(wgpu::MapMode::Read, .., Result::unwrap);
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        bytemuck::pod_collect_to_vec::<u8, f32>(&read.get_mapped_range(..).unwrap())
    }
}

fn assert_near(what: &str, expected: &[f32], found: &[f32]) {
    assert!(expected.iter().any(|v| v.abs() > 3.0), "{what}: products");
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        // additions in other orders; products themselves are rounded where matrix units get them
        assert!((e - f).abs() <= 1e-4 + 1e-5 * e.abs(), "{what}, output {i}: expected {e}, found {f}");
    }
}

const FP8: WeightFormat = WeightFormat::Scaled(Scaled::fp8(128, ScaleType::F32));

/// Whole tiles and edges, an odd number of blocks, few tokens and many, added to what is there.
#[test]
fn products_of_matrices() {
    let (q4, nvfp4) = (WeightFormat::affine(4, 32), WeightFormat::Scaled(Scaled::NVFP4));
    let edges = [133, 160, 131];
    for (format, shape) in [(FP8, edges), (q4, edges), (nvfp4, edges), (FP8, [128, 64, 128]), (FP8, [70, 96, 9])] {
        let [rows, cols, tokens] = shape;
        let product = Product::new(format, [rows, cols, tokens, rows.next_multiple_of(4)], None);
        let shape = |kernel| ProductShape::new(kernel, Form::Int8, format, rows, cols);
        let (plain, tile) = (shape("matmul"), Tile::MATRIX[1]);
        let grid = tile.grid(rows, tokens.div_ceil(tile.tokens()));
        let expected = product.run(plain.shader(), &plain.tile_constants(tile), grid);
        let units = shape("matmul_cooperative");
        for tile in CooperativeTile::MATRIX {
            let found = product.run(units.shader(), &units.cooperative_constants(tile), tile.grid(rows, tokens));
            assert_near(&format!("{format} {rows}x{cols}, {tokens} tokens, {tile:?}"), &expected, &found);
        }
    }
}

/// Tiles of few pairs and of many, whole and not, for both projections.
#[test]
fn products_of_experts() {
    const COLS: usize = 160;
    const DOWN: [&str; 2] = ["expert_matmul_down", "expert_matmul_cooperative_down"];
    const GATE_UP: [&str; 2] = ["expert_matmul_gate_up", "expert_matmul_cooperative_gate_up"];
    let few = [[0, 16], [16, 3], [19, 11]];
    let many = [[0, 64], [64, 45], [109, 17]];
    for (tile, tiles) in Tile::EXPERT.into_iter().zip([few, many]) {
        let pairs = tiles.iter().map(|[_, pairs]| *pairs as usize).sum();
        // rows of the weights, and of the output
        for (kernels, rows, outputs) in [(DOWN, 72, 72), (DOWN, 128, 128), (GATE_UP, 64, 32), (GATE_UP, 192, 96)] {
            let product = Product::new(FP8, [rows, COLS, pairs, outputs], Some(&tiles));
            let [expected, found] = kernels.map(|kernel| {
                let shape = ProductShape::new(kernel, Form::Int8, FP8, rows, COLS);
                let (mut constants, mut grid) = (shape.tile_constants(tile), tile.grid(rows, tiles.len()));
                if kernels == GATE_UP {
                    constants.push(("quantisers", tile.threads() as f64));
                    grid[0] = outputs.div_ceil(32) as u32;
                }
                product.run(shape.shader(), &constants, grid)
            });
            assert_near(&format!("{} {rows}x{COLS}, {tile:?}", kernels[1]), &expected, &found);
        }
    }
}
