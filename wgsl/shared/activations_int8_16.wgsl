// Activations as quantise.wgsl packs them, and products with a block of 32 columns whose halves have scales of their own:
// exact integers within each 16 columns.

//import dot_16
//import separated

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>; // [rows, cols / 4 codes, then cols / 32 (scale, scale * sum)]

struct Activations {
    codes: array<vec4<u32>, 2>,
    scale: f32,
    sums: vec2<f32>, // of both halves, in the activations' unit
}

struct Weights {
    codes: array<vec4<u32>, 2>,
    scale: vec2<f32>,
    bias: vec2<f32>,
}

// Block `block` of the row that starts at vec4 `row`.
fn load(row: u32, block: u32) -> Activations {
    let pair = bitcast<vec4<f32>>(x[row + params.blocks * 2u + block / 2u]);
    let scale = select(pair.x, pair.z, (block & 1u) == 1u);
    var low = x[row + block * 2u];
    var high = x[row + block * 2u + 1u];
    if paired == 1u {
        let even = low;
        low = vec4<u32>(even.xy, high.xy);
        high = vec4<u32>(even.zw, high.zw);
    }
    let ones = vec4<u32>(0x01010101u);
    let sums = vec2<f32>(f32(dot_16(ones, low)), f32(dot_16(ones, high))) * scale;
    return Activations(array<vec4<u32>, 2>(low, high), scale, sums);
}

fn dot_block(w: Weights, x: Activations) -> f32 {
    let dots = vec2<f32>(f32(dot_16(w.codes[0], x.codes[0])), f32(dot_16(w.codes[1], x.codes[1]))) * x.scale;
    let products = fma(w.scale, dots, w.bias * x.sums);
    return products.x + products.y;
}
