// RMS norm and rotation of queries and keys, and the write of keys and values into one window of the KV cache.
// One workgroup per head (query heads, then key heads, then value heads) and token.
// y[i] = n[i] cos_i - n[i + m] sin_i ; y[i + m] = n[i + m] cos_i + n[i] sin_i for i < m = rotary_dim / 2 ; the rest as is

struct Params {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    half_rotary: u32,
    q_offset: u32,
    q_head: u32, // elements from one query head to the next: the gate lies between
    k_offset: u32,
    v_offset: u32,
    x_stride: u32,
    out_stride: u32,
    first_token: u32,
    first_row: u32, // of the window, for first_token
    eps: f32,
    rope_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, q and gate | k | v]
@group(0) @binding(1) var<storage, read> q_norm: array<f32>; // [dim]
@group(0) @binding(2) var<storage, read> k_norm: array<f32>; // [dim]
@group(0) @binding(3) var<storage, read> rope: array<f32>; // [tokens, cos | sin]
@group(0) @binding(4) var<storage, read_write> q: array<f32>; // [tokens, heads * dim]
@group(0) @binding(5) var<storage, read_write> keys: array<f32>; // [positions, kv_heads * dim]
@group(0) @binding(6) var<storage, read_write> values: array<f32>; // [positions, kv_heads * dim]

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn qk_norm_rope(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let token = params.first_token + group.y;
    let row = token * params.x_stride;
    let cache_row = (params.first_row + group.y) * params.kv_heads * params.dim;
    let is_query = group.x < params.heads;
    let is_value = group.x >= params.heads + params.kv_heads;
    var start = params.q_offset + group.x * params.q_head;
    if is_value {
        start = params.v_offset + (group.x - params.heads - params.kv_heads) * params.dim;
    } else if !is_query {
        start = params.k_offset + (group.x - params.heads) * params.dim;
    }
    var sum = 0.0;
    for (var i = local; i < params.dim; i += 64u) {
        let v = x[row + start + i];
        sum = fma(v, v, sum);
    }
    partial[local] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            partial[local] += partial[local + half];
        }
    }
    workgroupBarrier();
    let scale = 1.0 / sqrt(partial[0] / f32(params.dim) + params.eps);
    let m = params.half_rotary;
    for (var i = local; i < params.dim; i += 64u) {
        if is_value {
            values[cache_row + (group.x - params.heads - params.kv_heads) * params.dim + i] = x[row + start + i];
            continue;
        }
        let other = select(select(i, i - m, i >= m), i + m, i < m);
        var n = x[row + start + i] * scale;
        var o = x[row + start + min(other, params.dim - 1u)] * scale;
        if is_query {
            n *= q_norm[i];
            o *= q_norm[min(other, params.dim - 1u)];
        } else {
            n *= k_norm[i];
            o *= k_norm[min(other, params.dim - 1u)];
        }
        var y = n;
        if i < 2u * m {
            let angle = token * params.rope_stride + i % m;
            let c = rope[angle];
            let s = rope[angle + m];
            y = select(n * c + o * s, n * c - o * s, i < m);
        }
        if is_query {
            q[token * params.out_stride + group.x * params.dim + i] = y;
        } else {
            keys[cache_row + (group.x - params.heads) * params.dim + i] = y;
        }
    }
}
