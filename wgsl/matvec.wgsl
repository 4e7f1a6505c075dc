// Product of a weight matrix with the activations of one token.
// out[0, r] = (accumulate ? out[0, r] : 0) + sum_c W[r, c] * x[first_token, c], scaled where `x` is yet to be
// A team shares `sums` rows, one a sum.

//import place
//import prepare
//import rows
//import squares
//import team

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
@group(0) @binding(3) var<storage, read> squares: array<f32>; // of `x`: see shared/squares.wgsl

@compute @workgroup_size(threads)
fn matvec(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    prepare(local);
    let first = (group.y * params.grid_x + group.x) * (threads / lanes) * sums;
    let row = first + local / lanes * sums;
    let matrix = Place(params.stream_0, params.stream_1, params.stream_2);
    let start = params.x_offset + params.first_token * params.x_stride;
    keep_squares(local, threads);
    keep_all(local, times_rows(matrix, row, params.rows - 1u, start, local % lanes));
    workgroupBarrier();
    for (var i = local; i < threads / lanes * sums && first + i < params.rows; i += threads) {
        let at = params.out_offset + first + i;
        let sum = scaled(total(i % sums, i / sums));
        out[at] = select(sum, out[at] + sum, params.accumulate == 1u);
    }
}
