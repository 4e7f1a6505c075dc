// Product of a weight matrix with the activations of four tokens at a time: a block of weights is unpacked once for
// four tokens. Sums are taken in the order of matvec.wgsl, so a token's result does not depend on its company.
// out[t, r] = (accumulate ? out[t, r] : 0) + sum_c W[r, c] * x[t, c]
// `lanes` threads share two rows; each takes every lanes-th block of 32 columns.

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

var<workgroup> partial: array<vec4<f32>, 128>; // [row of two, thread], one component a token

fn load(token: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = params.x_offset + (params.first_token + min(token, params.tokens - 1u)) * params.x_stride + block * 8u;
    return array<vec4<f32>, 8>(x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u]);
}

@compute @workgroup_size(64)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % lanes;
    let row = ((group.y * params.grid_x + group.x) * (64u / lanes) + local / lanes) * 2u;
    let last = params.rows - 1u;
    let token = group.z * 4u;
    let matrix = Place(params.codes, params.scales, params.biases);
    var a0 = vec4<f32>();
    var a1 = vec4<f32>();
    var a2 = vec4<f32>();
    var a3 = vec4<f32>();
    var b0 = vec4<f32>();
    var b1 = vec4<f32>();
    var b2 = vec4<f32>();
    var b3 = vec4<f32>();
    for (var block = lane; block < params.blocks; block += lanes) {
        let a = block_of(matrix, min(row, last), block, params.blocks);
        let b = block_of(matrix, min(row + 1u, last), block, params.blocks);
        let v0 = load(token, block);
        a0 = dot_block(a, v0, a0);
        b0 = dot_block(b, v0, b0);
        let v1 = load(token + 1u, block);
        a1 = dot_block(a, v1, a1);
        b1 = dot_block(b, v1, b1);
        let v2 = load(token + 2u, block);
        a2 = dot_block(a, v2, a2);
        b2 = dot_block(b, v2, b2);
        let v3 = load(token + 3u, block);
        a3 = dot_block(a, v3, a3);
        b3 = dot_block(b, v3, b3);
    }
    partial[local] = vec4<f32>(horizontal(a0), horizontal(a1), horizontal(a2), horizontal(a3));
    partial[64u + local] = vec4<f32>(horizontal(b0), horizontal(b1), horizontal(b2), horizontal(b3));
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[local] += partial[local + half];
            partial[64u + local] += partial[64u + local + half];
        }
    }
    workgroupBarrier();
    if lane < 8u {
        let r = lane / 4u;
        let t = lane % 4u;
        if row + r < params.rows && token + t < params.tokens {
            let at = params.out_offset + (token + t) * params.out_stride + row + r;
            let sum = partial[r * 64u + local - lane][t];
            out[at] = select(sum, out[at] + sum, params.accumulate == 1u);
        }
    }
}
