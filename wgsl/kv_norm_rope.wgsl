// Bias, RMS norm and rotation of keys, and the write of keys and values into one window of the KV cache, for prompts:
// attention.wgsl does this itself. One workgroup per key head and token.

//import rotated_head

struct Params {
    x_stride: u32,
    k_offset: u32,
    v_offset: u32,
    first_token: u32,
    first_row: u32, // of the window, for first_token
    rope_stride: u32,
    row: u32, // elements of a row of the cache
    eps: f32,
    k_norm: u32, // where they begin in `vectors`
    bias: u32,
}
var<immediate> params: Params;

override has_k_norm: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, q and gate | k | v]
@group(0) @binding(1) var<storage, read> vectors: array<f32>; // k_norm [dim], bias [columns of x]
@group(0) @binding(2) var<storage, read> rope: array<f32>; // [tokens, cos | sin]
@group(0) @binding(3) var<storage, read_write> keys: array<f32>; // [positions, kv_heads * dim]
@group(0) @binding(4) var<storage, read_write> values: array<f32>; // [positions, kv_heads * dim]

// Element `i` of the key that begins at column `k`.
fn normed_key(row: u32, k: u32, i: u32, scale: f32) -> f32 {
    if has_k_norm == 1u {
        return element(row, k + i) * scale * vectors[params.k_norm + i];
    }
    return element(row, k + i);
}

@compute @workgroup_size(128)
fn kv_norm_rope(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let token = params.first_token + group.y;
    let row = token * params.x_stride;
    let k = params.k_offset + group.x * dim;
    let v = params.v_offset + group.x * dim;
    var scale = 1.0;
    if has_k_norm == 1u {
        scale = 1.0 / sqrt(sums_of_squares(local, row, k, k).y / f32(dim) + params.eps);
    }
    let to = (params.first_row + group.y) * params.row + group.x * dim;
    for (var i = local; i < dim; i += 128u) {
        let o = partner(i);
        keys[to + i] = rotated(i, normed_key(row, k, i, scale), normed_key(row, k, o, scale), token * params.rope_stride);
        values[to + i] = element(row, v + i);
    }
}
