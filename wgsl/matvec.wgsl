// Product of a weight matrix with the activations of one token.
// out[t, r] = (accumulate ? out[t, r] : 0) + sum_c W[r, c] * x[t, c]
// `lanes` threads share four rows; each takes every lanes-th block of 32 columns.

struct Params {
    rows: u32, // of this part
    blocks: u32, // columns / 32
    grid_x: u32,
    x_offset: u32, // in vec4
    x_stride: u32, // in vec4
    out_offset: u32, // first row of this part included
    out_stride: u32,
    accumulate: u32,
    first_token: u32, // in x
    tokens: u32,
    codes: u32,
    scales: u32,
    biases: u32,
}
var<immediate> params: Params;

override lanes: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [tokens, cols]
@group(0) @binding(1) var<storage, read> weights: array<u32>; // [rows, cols] of a part: codes, scales, biases
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [tokens, rows]

var<workgroup> partial: array<vec4<f32>, 64>;

fn load(token: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = params.x_offset + (params.first_token + min(token, params.tokens - 1u)) * params.x_stride + block * 8u;
    return array<vec4<f32>, 8>(x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u]);
}

@compute @workgroup_size(64)
fn matvec(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % lanes;
    let row = ((group.y * params.grid_x + group.x) * (64u / lanes) + local / lanes) * 4u;
    let last = params.rows - 1u;
    let token = group.z;
    let matrix = Place(params.codes, params.scales, params.biases);
    var a0 = vec4<f32>();
    var a1 = vec4<f32>();
    var a2 = vec4<f32>();
    var a3 = vec4<f32>();
    for (var block = lane; block < params.blocks; block += lanes) {
        let v = load(token, block);
        a0 = dot_block(block_of(matrix, min(row, last), block, params.blocks), v, a0);
        a1 = dot_block(block_of(matrix, min(row + 1u, last), block, params.blocks), v, a1);
        a2 = dot_block(block_of(matrix, min(row + 2u, last), block, params.blocks), v, a2);
        a3 = dot_block(block_of(matrix, min(row + 3u, last), block, params.blocks), v, a3);
    }
    partial[local] = vec4<f32>(horizontal(a0), horizontal(a1), horizontal(a2), horizontal(a3));
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[local] += partial[local + half];
        }
    }
    workgroupBarrier();
    if lane < 4u && row + lane < params.rows {
        let at = params.out_offset + token * params.out_stride + row + lane;
        let sum = partial[local - lane][lane];
        out[at] = select(sum, out[at] + sum, params.accumulate == 1u);
    }
}
