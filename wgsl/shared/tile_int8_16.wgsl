// Tiles of integers, as tile_int8.wgsl, whose rows have a scale for each 16 columns.

//import activations
//import block
//import place
//import tile

override row_codes: u32 = 4u * tile_rows;
override token_codes: u32 = 4u * tile_tokens;
override row_blocks: u32 = 2u * tile_rows;
override token_blocks: u32 = 2u * tile_tokens;

var<workgroup> codes_of_rows: array<vec4<u32>, row_codes>; // [block of 2, half, row]
var<workgroup> codes_of_tokens: array<vec4<u32>, token_codes>; // [block of 2, half, token]
var<workgroup> scales_of_rows: array<vec4<f32>, row_blocks>; // [block of 2, row]: scales, biases
var<workgroup> scales_of_tokens: array<vec2<f32>, token_blocks>; // [block of 2, token]: scale, scale * sum of the first half
var<workgroup> sums_of_tokens: array<f32, token_blocks>; // [block of 2, token]: scale * sum of the second half

// A block of four tokens: a, b, c and d.
struct FourTokens {
    a0: vec4<u32>,
    a1: vec4<u32>,
    b0: vec4<u32>,
    b1: vec4<u32>,
    c0: vec4<u32>,
    c1: vec4<u32>,
    d0: vec4<u32>,
    d1: vec4<u32>,
    scale: vec4<f32>,
    low_sum: vec4<f32>,
    high_sum: vec4<f32>,
}

fn four_tokens(block: u32, token: u32) -> FourTokens {
    let low = 2u * block * tile_tokens + token;
    let high = low + tile_tokens;
    let at = block * tile_tokens + token;
    let a = scales_of_tokens[at];
    let b = scales_of_tokens[at + token_threads];
    let c = scales_of_tokens[at + 2u * token_threads];
    let d = scales_of_tokens[at + 3u * token_threads];
    return FourTokens(
        codes_of_tokens[low], codes_of_tokens[high],
        codes_of_tokens[low + token_threads], codes_of_tokens[high + token_threads],
        codes_of_tokens[low + 2u * token_threads], codes_of_tokens[high + 2u * token_threads],
        codes_of_tokens[low + 3u * token_threads], codes_of_tokens[high + 3u * token_threads],
        vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(a.y, b.y, c.y, d.y), vec4<f32>(
            sums_of_tokens[at], sums_of_tokens[at + token_threads],
            sums_of_tokens[at + 2u * token_threads], sums_of_tokens[at + 3u * token_threads],
        ),
    );
}

// `sum` and the products of a block of a row with four tokens.
fn add_row(block: u32, row: u32, x: FourTokens, sum: vec4<f32>) -> vec4<f32> {
    let at = 2u * block * tile_rows + row;
    let w0 = codes_of_rows[at];
    let w1 = codes_of_rows[at + tile_rows];
    let scales = scales_of_rows[block * tile_rows + row];
    let low = vec4<i32>(dot_16(w0, x.a0), dot_16(w0, x.b0), dot_16(w0, x.c0), dot_16(w0, x.d0));
    let high = vec4<i32>(dot_16(w1, x.a1), dot_16(w1, x.b1), dot_16(w1, x.c1), dot_16(w1, x.d1));
    let biased = fma(vec4<f32>(scales.z), x.low_sum, fma(vec4<f32>(scales.w), x.high_sum, sum));
    let with_low = fma(vec4<f32>(scales.x), vec4<f32>(low) * x.scale, biased);
    return fma(vec4<f32>(scales.y), vec4<f32>(high) * x.scale, with_low);
}

fn add_block(block: u32, row: u32, token: u32, s: Sums) -> Sums {
    let x = four_tokens(block, token);
    var sums = s;
    sums.r0 = add_row(block, row, x, sums.r0);
    if row_sums > 1u {
        sums.r1 = add_row(block, row + row_threads, x, sums.r1);
    }
    if row_sums > 2u {
        sums.r2 = add_row(block, row + 2u * row_threads, x, sums.r2);
        sums.r3 = add_row(block, row + 3u * row_threads, x, sums.r3);
    }
    if row_sums > 4u {
        sums.r4 = add_row(block, row + 4u * row_threads, x, sums.r4);
        sums.r5 = add_row(block, row + 5u * row_threads, x, sums.r5);
        sums.r6 = add_row(block, row + 6u * row_threads, x, sums.r6);
        sums.r7 = add_row(block, row + 7u * row_threads, x, sums.r7);
    }
    return sums;
}

// The sums of a thread over all columns. All threads of a workgroup call it together.
fn tile_sums(matrix: Place, local: u32) -> Sums {
    let row = first_row(local);
    let token = first_token(local);
    // a thread brings a block of a row and a block of a token, where there are as many
    let brings_row = local < 2u * tile_rows;
    let brings_token = local < 2u * tile_tokens;
    let its_row = matrix_row(local % tile_rows);
    let its_token = token_start(local % tile_tokens);
    let row_block = min(local / tile_rows, 1u);
    let token_block = min(local / tile_tokens, 1u);
    let row_at = 2u * row_block * tile_rows + local % tile_rows;
    let token_at = 2u * token_block * tile_tokens + local % tile_tokens;
    let last = params.blocks - 1u;
    var w = block_of(matrix, its_row, min(row_block, last));
    var x = load(its_token, min(token_block, last));
    var sums = Sums();
    for (var block = 0u; block < params.blocks; block += 2u) {
        if brings_row {
            codes_of_rows[row_at] = w.codes[0];
            codes_of_rows[row_at + tile_rows] = w.codes[1];
            scales_of_rows[local] = vec4<f32>(w.scale, w.bias);
        }
        if brings_token {
            codes_of_tokens[token_at] = x.codes[0];
            codes_of_tokens[token_at + tile_tokens] = x.codes[1];
            scales_of_tokens[local] = vec2<f32>(x.scale, x.sums.x);
            sums_of_tokens[local] = x.sums.y;
        }
        workgroupBarrier();
        // the next two are on their way while these are multiplied
        if brings_row {
            w = block_of(matrix, its_row, min(block + 2u + row_block, last));
        }
        if brings_token {
            x = load(its_token, min(block + 2u + token_block, last));
        }
        sums = add_block(0u, row, token, sums);
        if block < last {
            sums = add_block(1u, row, token, sums);
        }
        workgroupBarrier();
    }
    return sums;
}
