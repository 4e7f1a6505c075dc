// RMS norm and rotation of keys, and the write of keys and values into one window of the KV cache, for prompts:
// attention.wgsl does this itself. One workgroup per key head and token.

struct Params {
    x_stride: u32,
    k_offset: u32,
    v_offset: u32,
    first_token: u32,
    first_row: u32, // of the window, for first_token
    rope_stride: u32,
    row: u32, // elements of a row of the cache
    eps: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, q and gate | k | v]
@group(0) @binding(1) var<storage, read> k_norm: array<f32>; // [dim]
@group(0) @binding(2) var<storage, read> rope: array<f32>; // [tokens, cos | sin]
@group(0) @binding(3) var<storage, read_write> keys: array<f32>; // [positions, kv_heads * dim]
@group(0) @binding(4) var<storage, read_write> values: array<f32>; // [positions, kv_heads * dim]

@compute @workgroup_size(128)
fn kv_norm_rope(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let token = params.first_token + group.y;
    let k = token * params.x_stride + params.k_offset + group.x * dim;
    let v = token * params.x_stride + params.v_offset + group.x * dim;
    let scale = 1.0 / sqrt(sums_of_squares(local, k, k).y / f32(dim) + params.eps);
    let to = (params.first_row + group.y) * params.row + group.x * dim;
    for (var i = local; i < dim; i += 128u) {
        let o = partner(i);
        let n = x[k + i] * scale * k_norm[i];
        let other = x[k + o] * scale * k_norm[o];
        keys[to + i] = rotated(i, n, other, token * params.rope_stride);
        values[to + i] = x[v + i];
    }
}
