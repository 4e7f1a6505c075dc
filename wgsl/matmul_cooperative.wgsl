// Product of a weight matrix with the activations of many tokens, as matmul.wgsl, by the matrix units of a device.
// out[t, r] = (accumulate ? out[t, r] : 0) + sum_c f16(W[r, c]) * f16(x[first_token + t, c])
// See shared/tile_cooperative.wgsl. Only devices whose subgroups are known get this kernel.

enable f16;
enable wgpu_cooperative_matrix;

//import add_whole
//import matrix_unit
//import place
//import tile_cooperative

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

override edge_sums: u32 = unit * unit * subgroups;

// binding 0 is `x`, of the activations
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [rows, cols] of a part: its streams
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [tokens, rows]

var<workgroup> edge: array<f32, edge_sums>; // [subgroup, token of a unit, row of a unit]

var<private> tile_row: u32; // first of the tile
var<private> tile_token: u32;

fn matrix_row(k: u32) -> u32 {
    return min(tile_row + k, params.rows - 1u);
}

fn token_start(t: u32) -> u32 {
    return params.x_offset + (params.first_token + min(tile_token + t, params.tokens - 1u)) * params.x_stride;
}

// Writes `unit` rows for `unit` tokens, all of which there are.
fn write_whole(local: u32, row: u32, token: u32, sums: Sums) {
    if params.accumulate == 1u {
        add_whole(local, row, token, sums);
    } else {
        // naga 30 evaluates what a store is given only if it has a name
        let out_stride = params.out_stride;
        let at = params.out_offset + token * out_stride + row;
        coopStore(sums, &out[at], out_stride);
    }
}

// Writes those of `unit` rows for `unit` tokens that there are.
fn write_edge(local: u32, row: u32, token: u32, sums: Sums) {
    let first = local / 32u * unit * unit;
    coopStore(sums, &edge[first], unit);
    workgroupBarrier();
    for (var n = local % 32u; n < unit * unit; n += 32u) {
        let r = row + n % unit;
        let t = token + n / unit;
        if r < params.rows && t < params.tokens {
            let at = params.out_offset + t * params.out_stride + r;
            if params.accumulate == 1u {
                out[at] += edge[first + n];
            } else {
                out[at] = edge[first + n];
            }
        }
    }
    workgroupBarrier();
}

fn take_tile(
    local: u32,
    first_row: u32,
    first_token: u32,
    c00: Sums,
    c01: Sums,
    c02: Sums,
    c03: Sums,
    c10: Sums,
    c11: Sums,
    c12: Sums,
    c13: Sums,
) {
    let row = tile_row + first_row;
    let token = tile_token + first_token;
    // matrices of the output start at whole 16 bytes
    let is_aligned = (params.out_offset | params.out_stride) % 4u == 0u;
    let is_whole = tile_row + tile_rows <= params.rows && tile_token + tile_tokens <= params.tokens;
    if is_aligned && is_whole {
        write_whole(local, row, token, c00);
        write_whole(local, row + unit, token, c10);
        if token_tiles > 1u {
            write_whole(local, row, token + unit, c01);
            write_whole(local, row + unit, token + unit, c11);
        }
        if token_tiles > 2u {
            write_whole(local, row, token + 2u * unit, c02);
            write_whole(local, row, token + 3u * unit, c03);
            write_whole(local, row + unit, token + 2u * unit, c12);
            write_whole(local, row + unit, token + 3u * unit, c13);
        }
    } else {
        write_edge(local, row, token, c00);
        write_edge(local, row + unit, token, c10);
        if token_tiles > 1u {
            write_edge(local, row, token + unit, c01);
            write_edge(local, row + unit, token + unit, c11);
        }
        if token_tiles > 2u {
            write_edge(local, row, token + 2u * unit, c02);
            write_edge(local, row, token + 3u * unit, c03);
            write_edge(local, row + unit, token + 2u * unit, c12);
            write_edge(local, row + unit, token + 3u * unit, c13);
        }
    }
}

@compute @workgroup_size(threads)
fn matmul_cooperative(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile_row = (group.y * params.grid_x + group.x) * tile_rows;
    tile_token = group.z * tile_tokens;
    multiply_tile(Place(params.stream_0, params.stream_1, params.stream_2), local);
}
