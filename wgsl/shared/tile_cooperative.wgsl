// Tiles by matrix units, of weights and activations in f16 with sums in f32: two blocks of 32 columns at a time are in workgroup
// memory. A subgroup, 32 threads in a row, keeps 16 rows of the 64 that a tile has for all its tokens, 64 or 16, and adds 16
// columns at a time from first to last; then sums go where threads want them.

enable f16;
enable wgpu_cooperative_matrix;

//import activations
//import block
//import place
//import tile
//import weight_halves

const step_blocks: u32 = 2u;
const stride: u32 = 8u * step_blocks + 2u; // quads from row to row: 8 rows in a row are in banks of their own
override row_halves: u32 = tile_rows * stride;
override token_halves: u32 = tile_tokens * stride;
override sum_stride: u32 = tile_rows + 8u; // from token to token, for banks
override kept_sums: u32 = tile_tokens * sum_stride;

var<workgroup> halves_of_rows: array<vec4<f16>, row_halves>; // [row, quad of columns]
var<workgroup> halves_of_tokens: array<vec4<f16>, token_halves>; // [token, quad of columns]
var<workgroup> sums_of_tile: array<f32, kept_sums>; // [token, row]

// Of a row for the four tokens of a thread.
fn sums_of_row(row: u32, token: u32) -> vec4<f32> {
    let at = token * sum_stride + row;
    let next = token_threads * sum_stride;
    return vec4<f32>(sums_of_tile[at], sums_of_tile[at + next], sums_of_tile[at + 2u * next], sums_of_tile[at + 3u * next]);
}

fn sums_of_thread(row: u32, token: u32) -> Sums {
    var sums = Sums();
    sums.r0 = sums_of_row(row, token);
    if row_sums > 1u {
        sums.r1 = sums_of_row(row + row_threads, token);
    }
    if row_sums > 2u {
        sums.r2 = sums_of_row(row + 2u * row_threads, token);
        sums.r3 = sums_of_row(row + 3u * row_threads, token);
    }
    if row_sums > 4u {
        sums.r4 = sums_of_row(row + 4u * row_threads, token);
        sums.r5 = sums_of_row(row + 5u * row_threads, token);
        sums.r6 = sums_of_row(row + 6u * row_threads, token);
        sums.r7 = sums_of_row(row + 7u * row_threads, token);
    }
    return sums;
}

// The sums of a thread over all columns. All threads of a workgroup call it together.
fn tile_sums(matrix: Place, local: u32) -> Sums {
    // a thread brings a block of a row and a block of a token, where there are as many
    let brings_row = local < step_blocks * tile_rows;
    let brings_token = local < step_blocks * tile_tokens;
    let its_row = matrix_row(local % tile_rows);
    let its_token = token_start(local % tile_tokens);
    let row_block = min(local / tile_rows, step_blocks - 1u);
    let token_block = min(local / tile_tokens, step_blocks - 1u);
    let row_at = local % tile_rows * stride + 8u * row_block;
    let token_at = local % tile_tokens * stride + 8u * token_block;
    let last = params.blocks - 1u;
    // of the subgroup
    let first = local / 32u * 16u;
    let rows_at = first * stride;
    var w = block_of(matrix, its_row, min(row_block, last));
    var x = load(its_token, min(token_block, last));
    var c0: coop_mat16x16<f32, C>;
    var c1: coop_mat16x16<f32, C>;
    var c2: coop_mat16x16<f32, C>;
    var c3: coop_mat16x16<f32, C>;
    for (var block = 0u; block < params.blocks; block += step_blocks) {
        if brings_row {
            let quads = weight_halves(w);
            for (var k = 0u; k < 8u; k++) {
                halves_of_rows[row_at + k] = quads[k];
            }
        }
        if brings_token {
            let quads = activation_halves(x);
            for (var k = 0u; k < 8u; k++) {
                halves_of_tokens[token_at + k] = quads[k];
            }
        }
        workgroupBarrier();
        // the next ones are on their way while these are multiplied
        if brings_row {
            w = block_of(matrix, its_row, min(block + step_blocks + row_block, last));
        }
        if brings_token {
            x = load(its_token, min(block + step_blocks + token_block, last));
        }
        let quads = 8u * min(step_blocks, params.blocks - block);
        for (var k = 0u; k < quads; k += 4u) {
            let a = coopLoadT<coop_mat16x16<f16, A>>(&halves_of_rows[rows_at + k], stride);
            let b0 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[k], stride);
            c0 = coopMultiplyAdd(a, b0, c0);
            if tile_tokens > 16u {
                let b1 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[16u * stride + k], stride);
                let b2 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[32u * stride + k], stride);
                let b3 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[48u * stride + k], stride);
                c1 = coopMultiplyAdd(a, b1, c1);
                c2 = coopMultiplyAdd(a, b2, c2);
                c3 = coopMultiplyAdd(a, b3, c3);
            }
        }
        workgroupBarrier();
    }
    coopStore(c0, &sums_of_tile[first], sum_stride);
    if tile_tokens > 16u {
        coopStore(c1, &sums_of_tile[16u * sum_stride + first], sum_stride);
        coopStore(c2, &sums_of_tile[32u * sum_stride + first], sum_stride);
        coopStore(c3, &sums_of_tile[48u * sum_stride + first], sum_stride);
    }
    workgroupBarrier();
    return sums_of_thread(first_row(local), first_token(local));
}
