// Scales of a tile of integers whose rows have one for 32 columns, and products with them: within a block sums are exact.

//import activations
//import dot_16
//import tile
//import tile_codes

override row_blocks: u32 = 2u * tile_rows;
override token_blocks: u32 = 2u * tile_tokens;

var<workgroup> scales_of_rows: array<vec2<f32>, row_blocks>; // [block of 2, row]: scale, bias
var<workgroup> scales_of_tokens: array<vec2<f32>, token_blocks>; // [block of 2, token]: scale, scale * sum

// Of a block of four tokens.
struct FourScales {
    scale: vec4<f32>,
    sum: vec4<f32>,
}

fn keep_row_scales(at: u32, w: Weights) {
    scales_of_rows[at] = vec2<f32>(w.scale, w.bias);
}

fn keep_token_scales(at: u32, x: Activations) {
    scales_of_tokens[at] = vec2<f32>(x.scale, x.sum);
}

fn four_scales(at: u32) -> FourScales {
    let a = scales_of_tokens[at];
    let b = scales_of_tokens[at + token_threads];
    let c = scales_of_tokens[at + 2u * token_threads];
    let d = scales_of_tokens[at + 3u * token_threads];
    return FourScales(vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y));
}

fn dot_codes(w0: vec4<u32>, w1: vec4<u32>, x0: vec4<u32>, x1: vec4<u32>) -> i32 {
    return dot_16(w0, x0) + dot_16(w1, x1);
}

// `sum` and the products of a block of a row with four tokens; the row's scales are at `at`.
fn add_products(at: u32, w0: vec4<u32>, w1: vec4<u32>, x: FourCodes, x_scales: FourScales, sum: vec4<f32>) -> vec4<f32> {
    let scales = scales_of_rows[at];
    let dots = vec4<i32>(
        dot_codes(w0, w1, x.a0, x.a1), dot_codes(w0, w1, x.b0, x.b1),
        dot_codes(w0, w1, x.c0, x.c1), dot_codes(w0, w1, x.d0, x.d1),
    );
    return fma(vec4<f32>(scales.x), vec4<f32>(dots) * x_scales.scale, fma(vec4<f32>(scales.y), x_scales.sum, sum));
}
