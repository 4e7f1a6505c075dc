// Bias, RMS norm and rotation of keys, and the write of keys and values into one window of the KV cache, for prompts:
// attention.wgsl does this itself. One workgroup per key head and token.

//import keys
//import ready
//import rotated_head
//import values

struct Params {
    x_stride: u32,
    k_offset: u32,
    v_offset: u32,
    first_token: u32,
    first_row: u32, // of the window, for first_token
    rope_stride: u32,
    kv_heads: u32,
    eps: f32,
    k_norm: u32, // where they begin in `vectors`
    bias: u32,
}
var<immediate> params: Params;

override has_k_norm: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, q and gate | k | v]
@group(0) @binding(1) var<storage, read> vectors: array<f32>; // k_norm [dim], bias [columns of x]
@group(0) @binding(2) var<storage, read> rope: array<f32>; // [tokens, cos | sin]
@group(0) @binding(3) var<storage, read_write> keys: array<KeyCell>; // [positions, kv_heads, key_cells]
@group(0) @binding(4) var<storage, read_write> values: array<ValueCell>; // [positions, kv_heads, value_cells]

// Element `i` of the key that begins at column `k`.
fn normed_key(row: u32, k: u32, i: u32, scale: f32) -> f32 {
    if has_k_norm == 1u {
        return element(row, k + i) * scale * vectors[params.k_norm + i];
    }
    return element(row, k + i);
}

fn key_at(row: u32, k: u32, i: u32, scale: f32, angles: u32) -> f32 {
    return rotated(i, normed_key(row, k, i, scale), normed_key(row, k, partner(i), scale), angles);
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
    prepare_cache(local);
    let i = 4u * (local % 64u);
    if i < dim {
        if local < 64u {
            let angles = token * params.rope_stride;
            own[local] = vec4<f32>(
                key_at(row, k, i, scale, angles), key_at(row, k, i + 1u, scale, angles),
                key_at(row, k, i + 2u, scale, angles), key_at(row, k, i + 3u, scale, angles),
            );
        } else {
            let first = v + i;
            own[local] = vec4<f32>(
                element(row, first), element(row, first + 1u), element(row, first + 2u), element(row, first + 3u),
            );
        }
    }
    ready_own(local, 128u);
    let of_row = (params.first_row + group.y) * params.kv_heads + group.x;
    if local < key_cells {
        keys[of_row * key_cells + local] = key_cell(local);
    }
    if local < value_cells {
        values[of_row * value_cells + local] = value_cell(local);
    }
}
