// Scales of a tile of integers whose rows have one for each 16 columns, and products with them.

//import activations
//import dot_16
//import tile
//import tile_codes

override row_blocks: u32 = 2u * tile_rows;
override token_blocks: u32 = 2u * tile_tokens;

var<workgroup> scales_of_rows: array<vec4<f32>, row_blocks>; // [block of 2, row]: scales, biases
var<workgroup> scales_of_tokens: array<vec2<f32>, token_blocks>; // [block of 2, token]: scale, scale * sum of the first half
var<workgroup> sums_of_tokens: array<f32, token_blocks>; // [block of 2, token]: scale * sum of the second half

// Of a block of four tokens.
struct FourScales {
    scale: vec4<f32>,
    low_sum: vec4<f32>,
    high_sum: vec4<f32>,
}

fn keep_row_scales(at: u32, w: Weights) {
    scales_of_rows[at] = vec4<f32>(w.scale, w.bias);
}

fn keep_token_scales(at: u32, x: Activations) {
    scales_of_tokens[at] = vec2<f32>(x.scale, x.sums.x);
    sums_of_tokens[at] = x.sums.y;
}

fn four_scales(at: u32) -> FourScales {
    let a = scales_of_tokens[at];
    let b = scales_of_tokens[at + token_threads];
    let c = scales_of_tokens[at + 2u * token_threads];
    let d = scales_of_tokens[at + 3u * token_threads];
    return FourScales(
        vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y), vec4<f32>(
            sums_of_tokens[at], sums_of_tokens[at + token_threads],
            sums_of_tokens[at + 2u * token_threads], sums_of_tokens[at + 3u * token_threads],
        ),
    );
}

// `sum` and the products of a block of a row with four tokens; the row's scales are at `at`.
fn add_products(at: u32, w0: vec4<u32>, w1: vec4<u32>, x: FourCodes, x_scales: FourScales, sum: vec4<f32>) -> vec4<f32> {
    let scales = scales_of_rows[at];
    let low = vec4<i32>(dot_16(w0, x.a0), dot_16(w0, x.b0), dot_16(w0, x.c0), dot_16(w0, x.d0));
    let high = vec4<i32>(dot_16(w1, x.a1), dot_16(w1, x.b1), dot_16(w1, x.c1), dot_16(w1, x.d1));
    let biased = fma(vec4<f32>(scales.z), x_scales.low_sum, fma(vec4<f32>(scales.w), x_scales.high_sum, sum));
    let with_low = fma(vec4<f32>(scales.x), vec4<f32>(low) * x_scales.scale, biased);
    return fma(vec4<f32>(scales.y), vec4<f32>(high) * x_scales.scale, with_low);
}
