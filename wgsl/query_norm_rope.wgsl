// Bias, RMS norm and rotation of the queries of a prompt, times 1 / sqrt(dim), turned where keys are. They lie in tiles of 32
// rows for attention_prefill.wgsl and attention_prefill_cooperative.wgsl: the rows of a KV head are its queries, those of
// one token side by side. One workgroup per query head and token.

//import head
//import rotated_head
//import turn

struct Params {
    x_stride: u32,
    first_token: u32,
    tiles: u32, // of a KV head
    rope_stride: u32,
    scale: f32,
    eps: f32,
    q_norm: u32, // where they begin in `vectors`
    bias: u32,
}
var<immediate> params: Params;

override has_q_norm: u32 = 1u;
override heads: u32 = 8u;
override kv_heads: u32 = 2u;
override q_head: u32 = 2u * dim; // elements from one query head to the next: dim, or twice that with a gate

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, q and gate | k | v]
@group(0) @binding(1) var<storage, read> vectors: array<f32>; // q_norm [dim], bias [columns of x]
@group(0) @binding(2) var<storage, read> rope: array<f32>; // [tokens, cos | sin]
@group(0) @binding(3) var<storage, read_write> queries: array<f32>; // [kv_heads, tiles, dim, 32 rows]

// Element `i` of the query that begins at column `q`.
fn normed_query(row: u32, q: u32, i: u32, scale: f32) -> f32 {
    if has_q_norm == 1u {
        return element(row, q + i) * scale * vectors[params.q_norm + i];
    }
    return element(row, q + i);
}

@compute @workgroup_size(128)
fn query_norm_rope(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let token = params.first_token + group.y;
    let from_row = token * params.x_stride;
    let q = group.x * q_head;
    var scale = 1.0;
    if has_q_norm == 1u {
        scale = 1.0 / sqrt(sums_of_squares(local, from_row, q, q).x / f32(dim) + params.eps);
    }
    let of_key = heads / kv_heads;
    let row = group.y * of_key + group.x % of_key;
    let to = (group.x / of_key * params.tiles + row / 32u) * dim * 32u + row % 32u;
    for (var i = local; i < dim; i += 128u) {
        let o = partner(i);
        let n = normed_query(from_row, q, i, scale);
        let other = normed_query(from_row, q, o, scale);
        y[i] = rotated(i, n, other, token * params.rope_stride);
    }
    turn_head(local, dim, false);
    for (var i = local; i < dim; i += 128u) {
        queries[to + 32u * i] = params.scale * y[i];
    }
}
