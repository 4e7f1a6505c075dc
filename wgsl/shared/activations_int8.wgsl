// Activations as quantise.wgsl packs them, and products with a block of 32 columns: exact integers within the block.

//import dot_16

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>; // [rows, cols / 4 codes, then cols / 32 (scale, scale * sum)]

struct Activations {
    codes: array<vec4<u32>, 2>,
    scale: f32,
    sum: f32, // of the block, in the activations' unit
}

struct Weights {
    codes: array<vec4<u32>, 2>,
    scale: f32,
    bias: f32,
}

// Block `block` of the row that starts at vec4 `row`.
fn load(row: u32, block: u32) -> Activations {
    let pair = bitcast<vec4<f32>>(x[row + params.blocks * 2u + block / 2u]);
    let scales = select(pair.xy, pair.zw, (block & 1u) == 1u);
    return Activations(array<vec4<u32>, 2>(x[row + block * 2u], x[row + block * 2u + 1u]), scales.x, scales.y);
}

fn dot_block(w: Weights, x: Activations) -> f32 {
    let products = dot_16(w.codes[0], x.codes[0]) + dot_16(w.codes[1], x.codes[1]);
    return fma(w.scale, f32(products) * x.scale, w.bias * x.sum);
}
