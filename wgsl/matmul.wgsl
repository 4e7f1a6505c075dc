// Product of a weight matrix with the activations of many tokens: a tile of rows and tokens a workgroup.
// out[t, r] = (accumulate ? out[t, r] : 0) + sum_c W[r, c] * x[first_token + t, c]

//import activations
//import place
//import tile
//import tile_form
//import tile_parts
//import tile_write

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

// binding 0 is `x`, of the activations
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [rows, cols] of a part: its streams
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [tokens, rows]

var<private> tile_row: u32; // first of the tile
var<private> tile_token: u32;

fn matrix_row(k: u32) -> u32 {
    return min(tile_row + k, params.rows - 1u);
}

fn token_start(t: u32) -> u32 {
    return params.x_offset + (params.first_token + min(tile_token + t, params.tokens - 1u)) * params.x_stride;
}

fn write_sum(k: u32, t: u32, sum: f32) {
    let row = tile_row + k;
    let token = tile_token + t;
    if row < params.rows && token < params.tokens {
        let at = params.out_offset + token * params.out_stride + row;
        if params.accumulate == 1u {
            out[at] += sum;
        } else {
            out[at] = sum;
        }
    }
}

@compute @workgroup_size(threads)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    tile_row = (group.y * params.grid_x + group.x) * tile_rows;
    tile_token = group.z * tile_tokens;
    let of_part = tile_sums(Place(params.stream_0, params.stream_1, params.stream_2), local);
    let sums = sums_of_parts(local, of_part);
    if local < part_threads {
        write_sums(local, sums);
    }
}
