// Joins the splits that attention.wgsl or attention_prefill*.wgsl left, turns back what was turned, and applies the output
// gate. One workgroup per head and token; `sharers` threads have four columns together, each every `sharers`-th split.
// out[t, h] = sigmoid(gate[t, h]) * sum_s exp(max_s - max) acc_s / sum_s exp(max_s - max) total_s, where a sink is one more
// split: the largest score, a total of 1 and no output

//import head
//import pack_head
//import turn

struct Params {
    heads: u32,
    dim: u32,
    splits: u32,
    first_token: u32,
    out_stride: u32,
    gate_offset: u32,
    gate_stride: u32,
    gate_head: u32, // elements from one head's gate to the next; 0: no gate
    first: u32, // of the scratch, in vec4
    bias: u32, // where they begin in `vectors`
    sinks: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> scratch: array<vec4<f32>>; // [tokens, heads, splits, (max, sum, 0, 0) and dim]
@group(0) @binding(1) var<storage, read> gate: array<f32>; // [tokens, heads * dim]
@group(0) @binding(2) var<storage, read> vectors: array<f32>; // bias [columns of gate], sinks [heads]
@group(0) @binding(3) var<storage, read_write> out: array<u32>; // [tokens, heads * dim], bits of f32, or words: see shared/quantise.wgsl

override pack: u32 = 0u; // 1: `out` in 8 bits
override has_bias: u32 = 0u;
override has_sinks: u32 = 0u;
override threads: u32 = 64u; // a multiple of 16
override sharers: u32 = 1u; // as many as the threads are enough for, or 1: then splits are added up in their order

const lowest: f32 = -3.0e38;

var<workgroup> kept: array<vec2<f32>, threads>; // (share, total) of splits
var<workgroup> totals: array<f32, threads>; // what threads have added up
var<workgroup> quads: array<vec4<f32>, threads>;

// Exactly 1 for the split with the maximum and 0 for one that the token does not see, whatever the driver's exp: splits
// that a token does not see change no bit.
fn share(of_split: f32, top: f32) -> f32 {
    return select(select(exp(of_split - top), 0.0, of_split <= lowest), 1.0, of_split == top);
}

// Share of split `i` of those that are kept, of which there are `many`.
fn share_at(i: u32, many: u32) -> f32 {
    return select(0.0, kept[min(i, many - 1u)].x, i < many);
}

fn quad_at(at: u32, size: u32, i: u32, many: u32) -> vec4<f32> {
    return scratch[at + min(i, many - 1u) * size];
}

// Adds four columns of splits `i`, `i + sharers` and so on, which are on their way together.
fn add_eight(at: u32, size: u32, i: u32, many: u32, sum: vec4<f32>) -> vec4<f32> {
    let q0 = quad_at(at, size, i, many);
    let q1 = quad_at(at, size, i + sharers, many);
    let q2 = quad_at(at, size, i + 2u * sharers, many);
    let q3 = quad_at(at, size, i + 3u * sharers, many);
    let q4 = quad_at(at, size, i + 4u * sharers, many);
    let q5 = quad_at(at, size, i + 5u * sharers, many);
    let q6 = quad_at(at, size, i + 6u * sharers, many);
    let q7 = quad_at(at, size, i + 7u * sharers, many);
    var all = fma(vec4<f32>(share_at(i, many)), q0, sum);
    all = fma(vec4<f32>(share_at(i + sharers, many)), q1, all);
    all = fma(vec4<f32>(share_at(i + 2u * sharers, many)), q2, all);
    all = fma(vec4<f32>(share_at(i + 3u * sharers, many)), q3, all);
    all = fma(vec4<f32>(share_at(i + 4u * sharers, many)), q4, all);
    all = fma(vec4<f32>(share_at(i + 5u * sharers, many)), q5, all);
    all = fma(vec4<f32>(share_at(i + 6u * sharers, many)), q6, all);
    return fma(vec4<f32>(share_at(i + 7u * sharers, many)), q7, all);
}

@compute @workgroup_size(threads)
fn attention_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let token = group.y;
    let dim4 = params.dim / 4u;
    let size = dim4 + 1u;
    let first = params.first + (token * params.heads + head) * params.splits * size;
    let column = local % dim4;
    let sharer = local / dim4;
    var top = lowest;
    for (var s = local; s < params.splits; s += threads) {
        top = max(top, scratch[first + s * size].x);
    }
    kept[local].x = top;
    workgroupBarrier();
    if local < 16u {
        for (var i = local + 16u; i < threads; i += 16u) {
            top = max(top, kept[i].x);
        }
        kept[local].y = top;
    }
    workgroupBarrier();
    for (var i = 0u; i < 16u; i++) {
        top = max(top, kept[i].y);
    }
    var total = 0.0;
    if has_sinks == 1u {
        let sink = vectors[params.sinks + head];
        top = max(top, sink);
        total = select(0.0, share(sink, top), sharers == 1u || local == 0u);
    }
    var sum = vec4<f32>();
    for (var start = 0u; start < params.splits; start += threads) {
        let many = min(threads, params.splits - start);
        var mine = vec2<f32>();
        if local < many {
            let of_split = scratch[first + (start + local) * size];
            mine = vec2<f32>(share(of_split.x, top), of_split.y);
        }
        workgroupBarrier();
        kept[local] = mine;
        workgroupBarrier();
        if sharers == 1u {
            for (var i = 0u; i < many; i++) {
                total = fma(kept[i].x, kept[i].y, total);
            }
        } else {
            total = fma(mine.x, mine.y, total);
        }
        if sharer < sharers {
            for (var i = sharer; i < many; i += 8u * sharers) {
                sum = add_eight(first + start * size + 1u + column, size, i, many, sum);
            }
        }
    }
    if sharers > 1u {
        totals[local] = total;
        quads[local] = sum;
        workgroupBarrier();
        if local < 16u {
            for (var i = local + 16u; i < threads; i += 16u) {
                total += totals[i];
            }
            totals[local] = total;
        }
        workgroupBarrier();
        total = 0.0;
        for (var i = 0u; i < 16u; i++) {
            total += totals[i];
        }
        if sharer == 0u {
            for (var i = 1u; i < sharers; i++) {
                sum += quads[i * dim4 + column];
            }
        }
    }
    if sharer == 0u {
        let v = sum / total;
        y[4u * column] = v.x;
        y[4u * column + 1u] = v.y;
        y[4u * column + 2u] = v.z;
        y[4u * column + 3u] = v.w;
    }
    turn_head(local, params.dim, true);
    // a thread has the four that it set
    for (var i = 4u * local; i < min(4u * local + 4u, params.dim); i++) {
        var value = y[i];
        if params.gate_head > 0u {
            let column = params.gate_offset + head * params.gate_head + i;
            var g = gate[(params.first_token + token) * params.gate_stride + column];
            if has_bias == 1u {
                g += vectors[params.bias + column];
            }
            value *= 1.0 / (1.0 + exp(-g));
        }
        if pack == 1u {
            y[i] = value;
        } else {
            out[(params.first_token + token) * params.out_stride + head * params.dim + i] = bitcast<u32>(value);
        }
    }
    if pack == 1u {
        pack_head(local, params.dim, head, params.heads, (params.first_token + token) * params.out_stride);
    }
}
