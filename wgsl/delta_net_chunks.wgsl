// Third stage of the delta rule over a prompt: the state goes through the chunks of 32 tokens, one after the other. Columns
// of the state know nothing of each other: a workgroup has one value head and 4 * columns4 columns, all rows of them in
// workgroup memory; a thread has one token and four columns.
// D = solved (V - diag(since) K S) ; O = diag(since) Q S + scores D ; S <- exp(sum of g) S + (diag(to) K)^T D
// with since_i = exp(g[0] + ... + g[i]) and to_i = exp(g[i + 1] + ... + g[31]) in the chunk. That is U - W S of the usual
// U = T diag(beta) V and W = T diag(beta since) K, without storing U and W: `solved` is T diag(beta).
// 32 tokens, because the state's columns (8 KiB) and three blocks of 32 tokens (6 KiB) then fit into 16 KiB.

//import delta_net_scratch

struct Params {
    rows: u32, // of the run: tokens, rounded up to chunks of 32
    key_heads: u32,
    value_heads: u32,
    state_stride: u32,
}
var<immediate> params: Params;

override key_dim: u32 = 128u;
override value_dim: u32 = 128u;
override side_by_side: u32 = 1u; // value heads in a row that share a key head
override value4: u32 = 32u;
override columns4: u32 = 4u; // 2 where key_dim is more than 128: 16 KiB hold no more
override threads: u32 = 32u * columns4;
override state_size: u32 = 4u * key4 * columns4;

@group(0) @binding(0) var<storage, read_write> scratch: array<vec4<f32>>; // see shared/delta_net_scratch.wgsl
@group(0) @binding(1) var<storage, read_write> state: array<f32>; // [value_heads * key_dim, value_dim]

var<workgroup> held: array<vec4<f32>, state_size>; // the state: [4 key4, columns4]
var<workgroup> missing: array<vec4<f32>, threads>; // [32, columns4]: V - diag(since) K S
var<workgroup> delta: array<vec4<f32>, threads>; // [32, columns4]: D
var<workgroup> kept: array<vec4<f32>, threads>; // [32, columns4]: diag(to) D

// Adds four rows of the state, or of a block of tokens, each times a number.
fn add_rows(by: vec4<f32>, r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(by.wwww, r3, fma(by.zzzz, r2, fma(by.yyyy, r1, fma(by.xxxx, r0, sum))));
}

@compute @workgroup_size(threads)
fn delta_net_chunks(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let key_head = head / side_by_side % params.key_heads;
    let first_column = group.y * columns4 * 4u;
    for (var n = local; n < state_size; n += threads) {
        let row = n / columns4;
        let column = first_column + n % columns4 * 4u;
        let at = (head * key_dim + row) * params.state_stride + column;
        // rows and columns past the last are zero
        var s = vec4<f32>();
        if row < key_dim {
            if column < value_dim { s.x = state[at]; }
            if column + 1u < value_dim { s.y = state[at + 1u]; }
            if column + 2u < value_dim { s.z = state[at + 2u]; }
            if column + 3u < value_dim { s.w = state[at + 3u]; }
        }
        held[n] = s;
    }
    let i = local / columns4;
    let c = local % columns4;
    for (var chunk = 0u; chunk < params.rows / 32u; chunk++) {
        let first = chunk * 32u;
        let keys = keys_at(key_head) + first * key4 + i;
        let queries = queries_at(key_head) + first * key4 + i;
        let value = values_at(head) + (first + i) * value4 + group.y * columns4 + c;
        let decays = scratch[decays_at(head) + first + i];
        let v = scratch[value];
        workgroupBarrier();
        var from_keys = vec4<f32>();
        var from_queries = vec4<f32>();
        for (var d = 0u; d < key4; d++) {
            let k = scratch[keys + 32u * d];
            let q = scratch[queries + 32u * d];
            let at = 4u * d * columns4 + c;
            let s0 = held[at];
            let s1 = held[at + columns4];
            let s2 = held[at + 2u * columns4];
            let s3 = held[at + 3u * columns4];
            from_keys = add_rows(k, s0, s1, s2, s3, from_keys);
            from_queries = add_rows(q, s0, s1, s2, s3, from_queries);
        }
        missing[local] = fma(vec4<f32>(-decays.x), from_keys, v);
        workgroupBarrier();
        let solved = solved_at(head) + first * 8u + i;
        var sum = vec4<f32>();
        for (var j = 0u; j < 8u; j++) {
            let at = 4u * j * columns4 + c;
            let m0 = missing[at];
            let m1 = missing[at + columns4];
            let m2 = missing[at + 2u * columns4];
            let m3 = missing[at + 3u * columns4];
            sum = add_rows(scratch[solved + 32u * j], m0, m1, m2, m3, sum);
        }
        delta[local] = sum;
        kept[local] = decays.y * sum;
        workgroupBarrier();
        let scores = scores_at(head) + first * 8u + i;
        sum = decays.x * from_queries;
        for (var j = 0u; j < 8u; j++) {
            let at = 4u * j * columns4 + c;
            let d0 = delta[at];
            let d1 = delta[at + columns4];
            let d2 = delta[at + 2u * columns4];
            let d3 = delta[at + 3u * columns4];
            sum = add_rows(scratch[scores + 32u * j], d0, d1, d2, d3, sum);
        }
        scratch[value] = sum;
        // four rows and four columns of the state at a time
        let decay = scratch[decays_at(head) + first + 31u].x;
        for (var d = i; d < key4; d += 32u) {
            let at = 4u * d * columns4 + c;
            var s0 = decay * held[at];
            var s1 = decay * held[at + columns4];
            var s2 = decay * held[at + 2u * columns4];
            var s3 = decay * held[at + 3u * columns4];
            let row = key_rows_at(key_head) + first * key4 + d;
            for (var j = 0u; j < 32u; j++) {
                let k = scratch[row + j * key4];
                let by = kept[j * columns4 + c];
                s0 = fma(k.xxxx, by, s0);
                s1 = fma(k.yyyy, by, s1);
                s2 = fma(k.zzzz, by, s2);
                s3 = fma(k.wwww, by, s3);
            }
            held[at] = s0;
            held[at + columns4] = s1;
            held[at + 2u * columns4] = s2;
            held[at + 3u * columns4] = s3;
        }
    }
    workgroupBarrier();
    for (var n = local; n < state_size; n += threads) {
        let row = n / columns4;
        let column = first_column + n % columns4 * 4u;
        let at = (head * key_dim + row) * params.state_stride + column;
        let s = held[n];
        if row < key_dim {
            if column < value_dim { state[at] = s.x; }
            if column + 1u < value_dim { state[at + 1u] = s.y; }
            if column + 2u < value_dim { state[at + 2u] = s.z; }
            if column + 3u < value_dim { state[at + 3u] = s.w; }
        }
    }
}
