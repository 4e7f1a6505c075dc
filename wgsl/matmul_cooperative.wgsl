// Product of a weight matrix with the activations of many tokens, as matmul.wgsl, by the matrix units of a device.
// out[t, r] = (accumulate ? out[t, r] : 0) + sum_c f16(W[r, c]) * f16(x[first_token + t, c])
//
// A subgroup keeps the sums of 32 rows for 64 tokens, in f32, and adds 16 columns at a time from first to last: bits depend
// neither on the tile, nor on the company of a token. Subgroups are 32 threads in a row: only devices that are known to
// have such get this kernel.

enable f16;
enable wgpu_cooperative_matrix;

//import activations
//import block
//import place
//import weight_halves

struct Params {
    rows: u32, // of this part
    blocks: u32, // columns / 32
    grid_x: u32,
    x_offset: u32, // in 16 bytes
    x_stride: u32, // in 16 bytes
    out_offset: u32, // first row of this part included
    out_stride: u32,
    accumulate: u32,
    first_token: u32, // in x
    tokens: u32,
    stream_0: u32, // in the part: see shared/place.wgsl
    stream_1: u32,
    stream_2: u32,
}
var<immediate> params: Params;

override row_subgroups: u32 = 4u;
override token_subgroups: u32 = 2u;
override step_blocks: u32 = 2u; // blocks of 32 columns in workgroup memory: 1 or 2
override subgroups: u32 = row_subgroups * token_subgroups;
override threads: u32 = 32u * subgroups; // `step_blocks` times the rows and times the tokens of a tile, or more
override tile_rows: u32 = 32u * row_subgroups;
override tile_tokens: u32 = 64u * token_subgroups;
override stride: u32 = 8u * step_blocks + 2u; // quads from row to row: 8 rows in a row are in banks of their own
override row_halves: u32 = tile_rows * stride;
override token_halves: u32 = tile_tokens * stride;
override edge_sums: u32 = 256u * subgroups;

// binding 0 is `x`, of the activations
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [rows, cols] of a part: its streams
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [tokens, rows]

var<workgroup> halves_of_rows: array<vec4<f16>, row_halves>; // [row, quad of columns]
var<workgroup> halves_of_tokens: array<vec4<f16>, token_halves>; // [token, quad of columns]
var<workgroup> edge: array<f32, edge_sums>; // [subgroup, token of 16, row of 16]

fn token_start(t: u32) -> u32 {
    return params.x_offset + (params.first_token + min(t, params.tokens - 1u)) * params.x_stride;
}

// Writes 16 rows for 16 tokens, all of which there are.
fn write_whole(row: u32, token: u32, sums: coop_mat16x16<f32, C>) {
    // naga 30 evaluates what a store is given only if it has a name
    let out_stride = params.out_stride;
    let at = params.out_offset + token * out_stride + row;
    if params.accumulate == 1u {
        let all = coopLoad<coop_mat16x16<f32, C>>(&out[at], out_stride) + sums;
        coopStore(all, &out[at], out_stride);
    } else {
        coopStore(sums, &out[at], out_stride);
    }
}

// Writes those of 16 rows for 16 tokens that there are.
fn write_edge(local: u32, row: u32, token: u32, sums: coop_mat16x16<f32, C>) {
    let first = local / 32u * 256u;
    coopStore(sums, &edge[first], 16u);
    workgroupBarrier();
    let r = row + local % 16u;
    for (var k = 0u; k < 8u; k++) {
        let t = 2u * k + local / 16u % 2u;
        if r < params.rows && token + t < params.tokens {
            let at = params.out_offset + (token + t) * params.out_stride + r;
            let sum = edge[first + 16u * t + local % 16u];
            if params.accumulate == 1u {
                out[at] += sum;
            } else {
                out[at] = sum;
            }
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(threads)
fn matmul_cooperative(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let tile_row = (group.y * params.grid_x + group.x) * tile_rows;
    let tile_token = group.z * tile_tokens;
    let matrix = Place(params.stream_0, params.stream_1, params.stream_2);
    let last = params.blocks - 1u;
    // a thread brings a block of a row and a block of a token, where there are as many
    let brings_row = local < step_blocks * tile_rows;
    let brings_token = local < step_blocks * tile_tokens;
    let its_row = min(tile_row + local % tile_rows, params.rows - 1u);
    let its_token = token_start(tile_token + local % tile_tokens);
    let row_block = local / tile_rows;
    let token_block = local / tile_tokens;
    let row_at = local % tile_rows * stride + 8u * row_block;
    let token_at = local % tile_tokens * stride + 8u * token_block;
    // of the subgroup
    let first_row = local / 32u % row_subgroups * 32u;
    let first_token = local / 32u / row_subgroups * 64u;
    let rows_at = first_row * stride;
    let tokens_at = first_token * stride;
    var w: Weights;
    var x: Activations;
    if brings_row {
        w = block_of(matrix, its_row, min(row_block, last));
    }
    if brings_token {
        x = load(its_token, min(token_block, last));
    }
    var c00: coop_mat16x16<f32, C>;
    var c01: coop_mat16x16<f32, C>;
    var c02: coop_mat16x16<f32, C>;
    var c03: coop_mat16x16<f32, C>;
    var c10: coop_mat16x16<f32, C>;
    var c11: coop_mat16x16<f32, C>;
    var c12: coop_mat16x16<f32, C>;
    var c13: coop_mat16x16<f32, C>;
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
            let a0 = coopLoadT<coop_mat16x16<f16, A>>(&halves_of_rows[rows_at + k], stride);
            let a1 = coopLoadT<coop_mat16x16<f16, A>>(&halves_of_rows[rows_at + 16u * stride + k], stride);
            let b0 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[tokens_at + k], stride);
            let b1 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[tokens_at + 16u * stride + k], stride);
            let b2 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[tokens_at + 32u * stride + k], stride);
            let b3 = coopLoad<coop_mat16x16<f16, B>>(&halves_of_tokens[tokens_at + 48u * stride + k], stride);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c02 = coopMultiplyAdd(a0, b2, c02);
            c03 = coopMultiplyAdd(a0, b3, c03);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
            c12 = coopMultiplyAdd(a1, b2, c12);
            c13 = coopMultiplyAdd(a1, b3, c13);
        }
        workgroupBarrier();
    }
    let row = tile_row + first_row;
    let token = tile_token + first_token;
    // matrices of the output start at whole 16 bytes
    let is_aligned = (params.out_offset | params.out_stride) % 4u == 0u;
    let is_whole = tile_row + tile_rows <= params.rows && tile_token + tile_tokens <= params.tokens;
    if is_aligned && is_whole {
        write_whole(row, token, c00);
        write_whole(row, token + 16u, c01);
        write_whole(row, token + 32u, c02);
        write_whole(row, token + 48u, c03);
        write_whole(row + 16u, token, c10);
        write_whole(row + 16u, token + 16u, c11);
        write_whole(row + 16u, token + 32u, c12);
        write_whole(row + 16u, token + 48u, c13);
    } else {
        write_edge(local, row, token, c00);
        write_edge(local, row, token + 16u, c01);
        write_edge(local, row, token + 32u, c02);
        write_edge(local, row, token + 48u, c03);
        write_edge(local, row + 16u, token, c10);
        write_edge(local, row + 16u, token + 16u, c11);
        write_edge(local, row + 16u, token + 32u, c12);
        write_edge(local, row + 16u, token + 48u, c13);
    }
}
