// Product of a weight matrix with the activations of four tokens at a time: a block of weights is unpacked once for
// four tokens. Sums are taken in the order of matvec.wgsl, so a token's result does not depend on its company.
// out[t, r] = (accumulate ? out[t, r] : 0) + sum_c W[r, c] * x[t, c]
// A team shares two rows: 8 sums, [row of two, token of four].

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
    codes: u32,
    scales: u32,
    biases: u32,
}
var<immediate> params: Params;

@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [rows, cols] of a part: codes, scales, biases
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [tokens, rows]

fn start(token: u32) -> u32 {
    return params.x_offset + (params.first_token + min(token, params.tokens - 1u)) * params.x_stride;
}

@compute @workgroup_size(threads)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = (group.y * params.grid_x + group.x) * (threads / lanes) * 2u;
    let row = first + local / lanes * 2u;
    let last = params.rows - 1u;
    let token = group.z * 4u;
    let matrix = Place(params.codes, params.scales, params.biases);
    var a = array<f32, 8>();
    for (var block = local % lanes; block < params.blocks; block += lanes) {
        let upper = block_of(matrix, min(row, last), block);
        let lower = block_of(matrix, min(row + 1u, last), block);
        let v0 = load(start(token), block);
        a[0] += dot_block(upper, v0);
        a[4] += dot_block(lower, v0);
        let v1 = load(start(token + 1u), block);
        a[1] += dot_block(upper, v1);
        a[5] += dot_block(lower, v1);
        let v2 = load(start(token + 2u), block);
        a[2] += dot_block(upper, v2);
        a[6] += dot_block(lower, v2);
        let v3 = load(start(token + 3u), block);
        a[3] += dot_block(upper, v3);
        a[7] += dot_block(lower, v3);
    }
    keep_all(local, a);
    workgroupBarrier();
    for (var i = local; i < threads / lanes * 8u; i += threads) {
        let r = first + i / 8u * 2u + i % 8u / 4u;
        let t = token + i % 4u;
        if r < params.rows && t < params.tokens {
            let at = params.out_offset + t * params.out_stride + r;
            let sum = total(i % 8u, i / 8u);
            out[at] = select(sum, out[at] + sum, params.accumulate == 1u);
        }
    }
}
