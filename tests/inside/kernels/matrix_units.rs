//! The kernels of matrix units on devices that have none: what a unit does, 32 threads do here, each for 8 of its 256 sums,
//! or 2 of 64, and in f32. So everything around the units is held against the same products without them: which columns, rows and
//! tokens they get, edges, and where sums go. Whether a device's units are right, `check` says there.

use std::collections::BTreeSet;

use bytemuck::cast_slice;
use flashflood_formats::{CacheFormat, Scaled, pack_row};

use super::random::Random;
use super::trial::gpu;
use crate::compute::KvFormat;
use crate::compute::ops::{CooperativeTile, ProductShape, Quantised, Tile};
use crate::compute::shaders::cached::{suffix_of, with_suffix};
use crate::compute::shaders::{self, Form};
use crate::weights::{ScaleType, WeightFormat};

/// What takes the place of units of `SIZE` x `SIZE`. Matrices in f16 are where they lie: (array, first element, from row to row
/// or token to token, from column to column); a thread has the sums of one row for `EACH` tokens.
const UNITS: &str = "
    var<private> lane: u32;
    fn multiply_add(a: vec4<u32>, b: vec4<u32>, c: mat2x4<f32>) -> mat2x4<f32> {
        var sums = c;
        for (var i = 0u; i < EACHu; i++) {
            let row = a.y + lane % SIZEu * a.z;
            let token = b.y + (lane / SIZEu * EACHu + i) * b.z;
            var sum = 0.0;
            for (var k = 0u; k < SIZEu; k += 4u) {
                sum += dot(four_of(a.x, row + k * a.w, a.w), four_of(b.x, token + k * b.w, b.w));
            }
            sums[i / 4u][i % 4u] += sum;
        }
        return sums;
    }";

/// Sums that units keep, to and from memory that is called `NAME`.
const MEMORY: &str = "
    fn store_NAME(stored: mat2x4<f32>, at: u32, stride: u32) {
        for (var i = 0u; i < EACHu; i++) {
            NAME[at + (lane / SIZEu * EACHu + i) * stride + lane % SIZEu] = stored[i / 4u][i % 4u];
        }
    }
    fn store_rows_NAME(stored: mat2x4<f32>, at: u32, stride: u32) {
        for (var i = 0u; i < EACHu; i++) {
            NAME[at + lane % SIZEu * stride + lane / SIZEu * EACHu + i] = stored[i / 4u][i % 4u];
        }
    }
    fn load_NAME(at: u32, stride: u32) -> mat2x4<f32> {
        var loaded: mat2x4<f32>;
        for (var i = 0u; i < EACHu; i++) {
            loaded[i / 4u][i % 4u] = NAME[at + (lane / SIZEu * EACHu + i) * stride + lane % SIZEu];
        }
        return loaded;
    }";

/// The same where it is made of quads.
const MEMORY_OF_QUADS: &str = "
    fn store_NAME(stored: mat2x4<f32>, at: u32, stride: u32) {
        for (var i = 0u; i < EACHu; i++) {
            let to = 4u * at + (lane / SIZEu * EACHu + i) * 4u * stride + lane % SIZEu;
            NAME[to / 4u][to % 4u] = stored[i / 4u][i % 4u];
        }
    }
    fn load_NAME(at: u32, stride: u32) -> mat2x4<f32> {
        var loaded: mat2x4<f32>;
        for (var i = 0u; i < EACHu; i++) {
            let place = 4u * at + (lane / SIZEu * EACHu + i) * 4u * stride + lane % SIZEu;
            loaded[i / 4u][i % 4u] = NAME[place / 4u][place % 4u];
        }
        return loaded;
    }";

/// The pieces of a call `CALL&NAME[AT], STRIDE)` that `text` begins with.
fn call<'a>(text: &'a str, call: &str) -> Option<([&'a str; 3], &'a str)> {
    let (name, rest) = text.strip_prefix(call)?.strip_prefix('&')?.split_once('[')?;
    let (at, rest) = rest.split_once("], ")?;
    let (stride, rest) = rest.split_once(')')?;
    Some(([name, at, stride], rest))
}

/// Fills what a workgroup has with what is no number: nobody else clears it.
fn no_numbers(text: &str) -> String {
    let arrays = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("var<workgroup> ")?.split_once(": array<")?;
        let (element, size) = rest.split_once(">;")?.0.rsplit_once(", ")?;
        Some((name, element, size))
    });
    let fill = arrays.map(|(name, element, size)| {
        let nothing = if element.ends_with("<f32>") || element == "f32" { "bitcast<f32>(0x7fc00000u)" } else { "77" };
        format!("    for (var i = local; i < {size}; i += 32u) {{ {name}[i] = {element}({nothing}); }}\n")
    });
    fill.collect()
}

/// A kernel without units.
fn without_units(source: &str) -> String {
    let is_of_units =
        |line: &str| line.starts_with("enable") || (line.starts_with("alias") && line.contains("coop_mat"));
    let lines = source.lines().filter(|line| !is_of_units(line));
    let mut text: String = lines.flat_map(|l| [l, "\n"]).collect();
    for (name, is) in [("UnitA", "f16, A"), ("UnitB", "f16, B"), ("Sums", "f32, C")] {
        for around in ["<NAME>", ": NAME", "-> NAME"] {
            let named = around.replace("NAME", name);
            text = text.replace(&named, &around.replace("NAME", &format!("coop_mat16x16<{is}>")));
        }
    }
    let (mut halves, mut sums, mut out) = (Vec::new(), BTreeSet::new(), String::new());
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let load = ["A", "B"].into_iter().flat_map(|role| ["coopLoad", "coopLoadT"].map(|load| (load, role)));
        let load = load.into_iter().find_map(|(load, role)| {
            Some((load == "coopLoadT", role, call(rest, &format!("{load}<coop_mat16x16<f16, {role}>>("))?))
        });
        if let Some((by_rows, role, ([name, at, stride], after))) = load {
            let in_quads = text.contains(&format!("{name}: array<vec4<f16>"));
            let id = halves.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                halves.push((name, in_quads));
                halves.len() - 1
            });
            let size = if in_quads { 4 } else { 1 };
            // from row of A, or column of B, to the next one, and from one of what is added up to the next one
            let stride = format!("{size}u * ({stride})");
            let steps = if by_rows == (role == "A") { format!("{stride}, 1u") } else { format!("1u, {stride}") };
            out += &format!("vec4<u32>({id}u, {size}u * ({at}), {steps})");
            rest = after;
        } else if let Some(([name, at, stride], after)) = call(rest, "coopLoad<coop_mat16x16<f32, C>>(") {
            sums.insert(name);
            out += &format!("load_{name}({at}, {stride})");
            rest = after;
        } else if let Some((by_rows, (stored, after))) = [("coopStore(", ""), ("coopStoreT(", "rows_")]
            .into_iter()
            .find_map(|(store, rows)| Some((rows, rest.strip_prefix(store)?.split_once(", &")?)))
        {
            let with_sign = format!("&{after}");
            let ([name, at, stride], _) = call(&with_sign, "").expect("a place in an array");
            out += &format!("store_{by_rows}{name}({stored}, {at}, {stride})");
            let name = &after[..name.len()];
            sums.insert(name);
            rest = &after[after.find(')').expect("an end") + 1..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    let mut text = out.replace("coopMultiplyAdd(", "multiply_add(").replace("coop_mat16x16<f32, C>", "mat2x4<f32>");
    // numbers of 16 bits, and their literals
    for (half, single) in [
        ("vec4<f16>", "vec4<f32>"),
        ("vec2<f16>", "vec2<f32>"),
        ("array<f16,", "array<f32,"),
        (" f16(", " f32("),
        ("(f16(", "(f32("),
        ("0h)", "0)"),
        ("5h)", "5)"),
    ] {
        text = text.replace(half, single);
    }
    for name in sums {
        let in_quads = text.contains(&format!("{name}: array<vec4<f32>"));
        text += &if in_quads { MEMORY_OF_QUADS } else { MEMORY }.replace("NAME", name);
    }
    text += "\nfn four_of(which: u32, at: u32, step: u32) -> vec4<f32> {\n    switch which {\n";
    for (id, (name, in_quads)) in halves.iter().enumerate() {
        let each = ["at", "at + step", "at + 2u * step", "at + 3u * step"].map(|at| match in_quads {
            true => format!("{name}[({at}) / 4u][({at}) % 4u]"),
            false => format!("{name}[{at}]"),
        });
        let whole = if *in_quads { format!("if step == 1u {{ return {name}[at / 4u]; }} ") } else { String::new() };
        let case = if id + 1 == halves.len() { "default".to_owned() } else { format!("case {id}u") };
        text += &format!("        {case}: {{ {whole}return vec4<f32>({}); }}\n", each.join(", "));
    }
    text += "    }\n}\n";
    let entry = "local_invocation_index) local: u32";
    let at = text.find(entry).expect("an entry point");
    let body = at + text[at..].find("{\n").expect("its body") + 2;
    text.insert_str(body, &format!("    lane = local % 32u;\n{}    workgroupBarrier();\n", no_numbers(&text)));
    assert!(
        ["coop_", "coopLoad", "coopStore", "<f16", "f16("].iter().all(|of_units| !text.contains(of_units)),
        "{text}"
    );
    let (size, each) = if source.contains("coop_mat8x8") { ("8", "2") } else { ("16", "8") };
    (text + UNITS).replace("SIZE", size).replace("EACH", each)
}

/// Runs a shader, with units that are made of threads where it wants some.
fn run(shader: &str, constants: &[(&str, f64)], buffers: &[&wgpu::Buffer], immediates: &[u32], grid: [u32; 3]) {
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
    let entries = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
    let entries: Vec<_> = entries.collect();
    let layout = pipeline.get_bind_group_layout(0);
    let group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_immediates(0, cast_slice(immediates));
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }
    queue.submit([encoder.finish()]);
}

fn floats(buffer: &wgpu::Buffer) -> Vec<f32> {
    let (device, queue) = (gpu().device, gpu().queue);
    let read = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &read, 0, buffer.size());
    queue.submit([encoder.finish()]);
    read.map_async(wgpu::MapMode::Read, .., Result::unwrap);
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    bytemuck::pod_collect_to_vec::<u8, f32>(&read.get_mapped_range(..).unwrap())
}

/// A product with all that it reads.
struct Product {
    buffers: Vec<wgpu::Buffer>,
    immediates: Vec<u32>,
    /// What the output is before.
    filled: Vec<u32>,
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
    fn new(
        (format, form): (WeightFormat, Form),
        [rows, cols, tokens, outputs]: [usize; 4],
        tiles: Option<&[[u32; 2]]>,
    ) -> Self {
        let mut random = Random::new(3);
        let x_words = if form == Form::F32 { cols } else { Quantised::words(cols).next_multiple_of(4) };
        let mut x = vec![0.0f32; tokens * x_words];
        for row in x.chunks_mut(x_words) {
            let columns = random.floats(cols, -1.0, 1.0);
            match form {
                Form::F32 => row.copy_from_slice(&columns),
                Form::Int8 => pack_row(&columns, format.interleave().unwrap(), row),
            }
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
            immediates.extend([0, 0, x_stride, outputs, 0]);
        } else {
            immediates.extend([0, x_stride, 0, outputs, 1, 0, tokens as u32]);
        }
        immediates.extend(streams);
        Product { buffers, immediates, filled }
    }

    /// The outputs of a shader, added to what is there or in its place.
    fn run(&self, shader: &str, constants: &[(&str, f64)], grid: [u32; 3]) -> Vec<f32> {
        let out = buffer(&self.filled);
        let buffers: Vec<_> = self.buffers.iter().enumerate().map(|(i, b)| if i == 2 { &out } else { b }).collect();
        run(shader, constants, &buffers, &self.immediates, grid);
        let mut found = floats(&out);
        found.truncate(self.filled.len());
        found
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
    let by_16 = [(q4, Form::Int8, edges), (nvfp4, Form::Int8, [70, 96, 20]), (FP8, Form::Int8, [128, 64, 128])];
    let by_8 = [(q4, Form::F32, edges), (WeightFormat::Bf16, Form::F32, [128, 64, 64])];
    for (format, form, shape) in by_16.into_iter().chain(by_8) {
        let [rows, cols, tokens] = shape;
        let product = Product::new((format, form), [rows, cols, tokens, rows.next_multiple_of(4)], None);
        let shape = |kernel| ProductShape::new(kernel, form, format, rows, cols);
        let (plain, tile) = (shape("matmul"), Tile::MATRIX[1]);
        let grid = tile.grid(rows, tokens.div_ceil(tile.tokens()));
        let expected = product.run(plain.shader(), &plain.tile_constants(tile), grid);
        let units = shape("matmul_cooperative");
        for tile in CooperativeTile::matrix(form) {
            let found = product.run(units.shader(), &units.cooperative_constants(tile), tile.grid(rows, tokens));
            assert_near(&format!("{format} {rows}x{cols}, {tokens} tokens, {tile:?}"), &expected, &found);
        }
    }
}

/// Tiles of few pairs and of many, whole and not, for both projections; and room that no expert needs.
#[test]
fn products_of_experts() {
    const COLS: usize = 160;
    const DOWN: [&str; 2] = ["expert_matmul_down", "expert_matmul_cooperative_down"];
    const GATE_UP: [&str; 2] = ["expert_matmul_gate_up", "expert_matmul_cooperative_gate_up"];
    let very_few = [[0, 8], [8, 3], [11, 5], [0, 0]];
    let few = [[0, 16], [16, 3], [19, 11], [0, 0]];
    let some = [[0, 32], [32, 17], [0, 0], [49, 20]];
    let many = [[0, 64], [64, 45], [109, 17], [0, 0]];
    let kinds = [very_few, few, some, many].into_iter().enumerate();
    for ((kind, tiles), form) in kinds.flat_map(|kind| [Form::F32, Form::Int8].map(|form| (kind, form))) {
        let pairs = tiles.iter().map(|[_, pairs]| *pairs as usize).sum();
        let (plain, units) = (Tile::EXPERT[kind], CooperativeTile::expert(form)[kind]);
        // rows of the weights, and of the output
        for (kernels, rows, outputs) in [(DOWN, 72, 72), (GATE_UP, 192, 96)] {
            let product = Product::new((FP8, form), [rows, COLS, pairs, outputs], Some(&tiles));
            let [plain_shape, shape] = kernels.map(|kernel| ProductShape::new(kernel, form, FP8, rows, COLS));
            let layers = tiles.len();
            let mut constants = [plain_shape.tile_constants(plain), shape.cooperative_constants(units)];
            let (grids, threads) =
                ([plain.grid(rows, layers), units.grid_of(rows, layers)], [plain.threads(), units.threads()]);
            if kernels == GATE_UP {
                constants.iter_mut().zip(threads).for_each(|(c, threads)| c.push(("quantisers", threads as f64)));
            }
            let expected = product.run(plain_shape.shader(), &constants[0], grids[0]);
            let found = product.run(shape.shader(), &constants[1], grids[1]);
            assert_near(&format!("{} {rows}x{COLS}, {units:?}", kernels[1]), &expected, &found);
            if kernels == GATE_UP {
                packed(&product, outputs, [plain_shape, shape], constants, grids);
            }
        }
    }
}

/// The same hidden values in 8 bits: scales and sums are near, and a code of some hundred may be another one.
fn packed(
    product: &Product,
    width: usize,
    shapes: [ProductShape; 2],
    constants: [Vec<(&'static str, f64)>; 2],
    grids: [[u32; 3]; 2],
) {
    let [expected, found] = std::array::from_fn(|i| {
        let constants = [&constants[i][..], &[("packed", 1.0), ("interleave", 2.0)]].concat();
        product.run(shapes[i].shader(), &constants, grids[i])
    });
    let (mut codes, mut other) = (0, 0);
    for (expected, found) in expected.chunks(width).zip(found.chunks(width)) {
        let (expected_codes, expected) = expected.split_at(width / 4);
        let (found_codes, found) = found.split_at(width / 4);
        let bytes = |words: &[f32]| cast_slice::<f32, i8>(words).to_vec();
        for (e, f) in bytes(expected_codes).into_iter().zip(bytes(found_codes)) {
            assert!(e.abs_diff(f) <= 1, "codes {e} and {f}");
            (codes, other) = (codes + 1, other + usize::from(e != f));
        }
        // what is behind the pairs is as it was
        for (e, f) in expected.iter().zip(found) {
            assert!((e - f).abs() <= 1e-3 + 5e-3 * e.abs(), "scales and sums {e} and {f}");
        }
    }
    assert!(codes > 0 && other <= codes / 100, "{other} of {codes} codes");
}

/// The state through chunks of 32 tokens, and the outputs, with key heads that value heads share.
#[test]
fn delta_rule_over_chunks() {
    const ROWS: usize = 96;
    let (key_heads, value_heads) = (2, 4);
    for (key_dim, value_dim) in [(128, 48), (64, 16)] {
        let mut random = Random::new(5);
        let (key4, value4) = (key_dim / 4, value_dim / 4);
        // as in wgsl/shared/delta_net_scratch.wgsl
        let (mut turned, mut rows) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..key_heads {
            for (which, turned) in turned.iter_mut().enumerate() {
                let of_tokens: Vec<Vec<f32>> = (0..ROWS).map(|_| unit(&mut random, key_dim)).collect();
                for chunk in of_tokens.chunks(32) {
                    let quads =
                        (0..key4).flat_map(|d| chunk.iter().flat_map(move |token| token[4 * d..4 * d + 4].to_vec()));
                    turned.extend(quads);
                }
                if which == 1 {
                    rows.extend(of_tokens.concat());
                }
            }
        }
        let values = random.floats(value_heads * ROWS * value_dim, -2.0, 2.0);
        let mut ties = Vec::new();
        for _ in 0..2 * value_heads * ROWS / 32 {
            for j in 0..8 {
                for i in 0..32 {
                    ties.extend((0..4).map(|c| if 4 * j + c <= i { random.uniform(-0.4, 0.4) } else { 0.0 }));
                }
            }
        }
        let decays =
            (0..value_heads * ROWS).flat_map(|_| [random.uniform(0.2, 1.0), random.uniform(0.2, 1.0), 0.0, 0.0]);
        let scratch: Vec<f32> =
            [&turned[0][..], &turned[1], &rows, &values, &ties, &decays.collect::<Vec<f32>>()].concat();
        let state = random.floats(value_heads * key_dim * value_dim, -1.0, 1.0);
        let constants = [("key_dim", key_dim as f64), ("side_by_side", 2.0), ("value4", value4 as f64)];
        let plain = [&constants[..], &[("value_dim", value_dim as f64), ("columns4", 4.0)]].concat();
        let run_by = |shader: &str, constants: &[(&str, f64)]| {
            let buffers = [buffer(cast_slice(&scratch)), buffer(cast_slice(&state))];
            let immediates = [ROWS as u32, key_heads as u32, value_heads as u32, value_dim as u32];
            let grid = [value_heads as u32, value_dim as u32 / 16, 1];
            run(shader, constants, &[&buffers[0], &buffers[1]], &immediates, grid);
            buffers.map(|buffer| floats(&buffer))
        };
        let expected = run_by("delta_net_chunks", &plain);
        let found = run_by("delta_net_chunks_cooperative", &constants);
        for (what, expected, found) in [("scratch", &expected[0], &found[0]), ("state", &expected[1], &found[1])] {
            let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            assert!(largest > 0.5, "{what}");
            for (i, (e, f)) in expected.iter().zip(found).enumerate() {
                assert!((e - f).abs() <= 1e-5 * largest.max(1.0), "{what} {i}, {key_dim}: expected {e}, found {f}");
            }
        }
    }
}

/// Queries of a prompt over two splits: tiles that are not full, a window, keys that are stored in each format, and scores
/// that go up again and again.
#[test]
fn attention_of_prompts() {
    attention_of(9, 32);
}

/// Queries of one token, in half a tile.
#[test]
fn attention_of_a_token() {
    attention_of(1, 16);
}

fn attention_of(tokens: usize, rows: usize) {
    for (at, format) in KvFormat::ALL.into_iter().filter(|format| *format != KvFormat::F32).enumerate() {
        let (dim, reach) = ([64, 128, 256, 192][at % 4], [0, 70, 0, 100][at % 4]);
        let (heads, kv_heads, positions) = (10, 2, 213);
        let mut random = Random::new(at as u64);
        let formats = format.of_heads(dim);
        let mut stored = |of: CacheFormat, growth: f32| {
            let head = |i: usize| {
                let size = 1.0 + growth * (i / kv_heads) as f32;
                let mut words = vec![0; of.words(dim)];
                of.pack(&random.floats(dim, -size, size), &mut words);
                words
            };
            buffer(&(0..positions * kv_heads).flat_map(head).collect::<Vec<u32>>())
        };
        let (keys, values) = (stored(formats[0], 0.01), stored(formats[1], 0.0));
        let tiles = (tokens * heads / kv_heads).div_ceil(32);
        let queries = random.floats(kv_heads * tiles * dim * 32, -0.5, 0.5);
        let leaves = tokens * heads * 2 * (dim + 4);
        let run_by = |kernel: &str| {
            let scratch = buffer(cast_slice(&[&queries[..], &vec![0.0; leaves]].concat()));
            let constants = [("dim", dim), ("heads", heads), ("kv_heads", kv_heads), ("split", 128)];
            let has_reach = ("has_reach", f64::from(u8::from(reach > 0)));
            let rows = (kernel != "attention_prefill").then_some(("rows", rows as f64));
            let constants = constants.into_iter().map(|(name, value)| (name, value as f64));
            let constants: Vec<_> = constants.chain([has_reach]).chain(rows).collect();
            let position = positions - tokens;
            let immediates = [tokens, position, 0, positions, 0, 2, tiles, 0, reach].map(|n| n as u32);
            let shader = with_suffix(kernel, suffix_of(formats).unwrap());
            run(shader, &constants, &[&keys, &values, &scratch], &immediates, [tiles as u32, 2, kv_heads as u32]);
            let leaves = floats(&scratch).split_off(queries.len());
            // what a split comes to does not depend on the score that its weights are relative to
            let each = leaves.chunks_exact(dim + 4).flat_map(|leaf| {
                let total = leaf[1].max(1e-30);
                leaf[4..].iter().map(move |v| v / total).chain([(leaf[0].max(-100.0) + total.ln()) / 16.0])
            });
            each.collect::<Vec<f32>>()
        };
        let (expected, found) = (run_by("attention_prefill"), run_by("attention_prefill_cooperative"));
        let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        assert!(largest > 0.0, "{format}");
        for (i, (e, f)) in expected.iter().zip(&found).enumerate() {
            assert!((e - f).abs() <= 1e-4 * largest, "{format}, {i}: expected {e}, found {f}, {largest} at most");
        }
    }
}

/// Of length 1.
fn unit(random: &mut Random, len: usize) -> Vec<f32> {
    let v = random.floats(len, -1.0, 1.0);
    let length = v.iter().map(|v| v * v).sum::<f32>().sqrt();
    v.into_iter().map(|v| v / length).collect()
}
