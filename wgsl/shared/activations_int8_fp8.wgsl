// Activations as quantise.wgsl packs them, and products with a block of 32 columns of FP8: no integers, so they are added up
// in f32. Both are kept as they are stored, in a quarter of the registers.

//import dot_columns
//import numbers_of_8_bits

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>; // [rows, cols / 4 codes, then cols / 32 (scale, scale * sum)]

struct Activations {
    codes: array<vec4<u32>, 2>,
    scale: f32,
}

struct Weights {
    numbers: array<vec4<u32>, 2>,
    scale: f32, // of a 256th
}

// Block `block` of the row that starts at vec4 `row`.
fn load(row: u32, block: u32) -> Activations {
    let pair = bitcast<vec4<f32>>(x[row + params.blocks * 2u + block / 2u]);
    let scale = select(pair.x, pair.z, (block & 1u) == 1u);
    return Activations(array<vec4<u32>, 2>(x[row + block * 2u], x[row + block * 2u + 1u]), scale);
}

fn scaled_codes(codes: u32, scale: f32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(codes)) * scale;
}

fn columns_of_codes(codes: array<vec4<u32>, 2>, s: f32) -> array<vec4<f32>, 8> {
    let a = codes[0];
    let b = codes[1];
    return array<vec4<f32>, 8>(
        scaled_codes(a.x, s), scaled_codes(a.y, s), scaled_codes(a.z, s), scaled_codes(a.w, s),
        scaled_codes(b.x, s), scaled_codes(b.y, s), scaled_codes(b.z, s), scaled_codes(b.w, s),
    );
}

fn row_columns(w: Weights) -> array<vec4<f32>, 8> {
    return columns_e4m3(w.numbers, w.scale);
}

fn token_columns(x: Activations) -> array<vec4<f32>, 8> {
    return columns_of_codes(x.codes, x.scale);
}

// Scales multiply the sum.
fn dot_block(w: Weights, x: Activations) -> f32 {
    return w.scale * (dot_columns(columns_e4m3(w.numbers, 1.0), columns_of_codes(x.codes, 1.0)) * x.scale);
}
