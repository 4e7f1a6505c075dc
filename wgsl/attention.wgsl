// Attention in decode, of one query head over one split of the KV cache, by online softmax over runs of 128 positions.
// Query, key and value of the token get their bias, norm and rotation here, and whoever has the last split writes key and
// value to the cache: nobody reads them there in the same step. Prompts take attention_prefill.wgsl.
// Leaves (max, sum of exponentials, unnormalised output) for attention_merge.wgsl; a split that is alone adds the sink,
// divides and applies the output gate itself.

//import pack_head
//import rotated_head

struct Params {
    position: u32, // of the token
    window_start: u32, // position of row 0 of the window
    window_rows: u32,
    first_split: u32, // of the window, in the scratch
    splits: u32, // in the scratch
    scale: f32,
    eps: f32,
    first_seen: u32, // row of the window that the token sees first
    q_norm: u32, // where they begin in `vectors`
    k_norm: u32,
    bias: u32,
    sinks: u32,
}
var<immediate> params: Params;

override has_q_norm: u32 = 1u;
override has_k_norm: u32 = 1u;
override has_sinks: u32 = 0u;
override split: u32 = 512u;
override pack: u32 = 0u; // 1: `out` in 8 bits
override heads: u32 = 8u;
override kv_heads: u32 = 2u;
override q_head: u32 = 2u * dim; // elements from one query head to the next: dim, or twice that with a gate

@group(0) @binding(0) var<storage, read> x: array<f32>; // [1, q and gate | k | v]
@group(0) @binding(1) var<storage, read> vectors: array<f32>; // q_norm and k_norm [dim], bias [columns of x], sinks [heads]
@group(0) @binding(2) var<storage, read> rope: array<f32>; // [1, cos | sin]
@group(0) @binding(3) var<storage, read_write> keys: array<vec4<f32>>; // [positions, kv_heads * dim]
@group(0) @binding(4) var<storage, read_write> values: array<f32>; // [positions, kv_heads * dim]
@group(0) @binding(5) var<storage, read_write> scratch: array<f32>; // [heads, splits, (max, sum, 0, 0) and dim]
@group(0) @binding(6) var<storage, read_write> out: array<u32>; // [1, heads * dim], bits of f32, or words: see shared/quantise.wgsl

const lowest: f32 = -3.0e38;

var<workgroup> query: array<vec4<f32>, 64>;
var<workgroup> own_key: array<vec4<f32>, 64>;
var<workgroup> weight: array<f32, 128>;
var<workgroup> partial: array<f32, 128>;
var<workgroup> y: array<f32, 256>; // of one head

fn normed_query(q: u32, i: u32, scale: f32) -> f32 {
    if has_q_norm == 1u {
        return element(0u, q + i) * scale * vectors[params.q_norm + i];
    }
    return element(0u, q + i);
}

fn normed_key(k: u32, i: u32, scale: f32) -> f32 {
    if has_k_norm == 1u {
        return element(0u, k + i) * scale * vectors[params.k_norm + i];
    }
    return element(0u, k + i);
}

fn query_at(q: u32, i: u32, scale: f32) -> f32 {
    return rotated(i, normed_query(q, i, scale), normed_query(q, partner(i), scale), 0u);
}

fn key_at(k: u32, i: u32, scale: f32) -> f32 {
    return rotated(i, normed_key(k, i, scale), normed_key(k, partner(i), scale), 0u);
}

fn finish(head: u32, i: u32, sum: f32, total: f32) {
    var value = sum / total;
    if q_head > dim {
        let g = element(0u, head * q_head + dim + i);
        value *= 1.0 / (1.0 + exp(-g));
    }
    if pack == 1u {
        y[i] = value;
    } else {
        out[head * dim + i] = bitcast<u32>(value);
    }
}

@compute @workgroup_size(128)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let kv = head / (heads / kv_heads);
    let row = kv_heads * dim;
    // in the window; splits in front of the one that is seen first are left out
    let split_row = (params.first_seen / split + group.y) * split;
    let from_row = max(split_row, params.first_seen);
    let to_row = min(split_row + split, params.window_rows);
    // of the token: the last in the window that has it
    let own_row = params.position - params.window_start;
    let dim4 = dim / 4u;
    let q = head * q_head;
    let k = heads * q_head + kv * dim;
    let v = k + row;
    var scales = vec2<f32>(1.0);
    if has_q_norm == 1u || has_k_norm == 1u {
        scales = 1.0 / sqrt(sums_of_squares(local, 0u, q, k) / f32(dim) + params.eps);
    }
    let i = 4u * (local % 64u);
    if i < dim {
        if local < 64u {
            query[i / 4u] = vec4<f32>(
                query_at(q, i, scales.x), query_at(q, i + 1u, scales.x),
                query_at(q, i + 2u, scales.x), query_at(q, i + 3u, scales.x),
            );
        } else {
            own_key[i / 4u] = vec4<f32>(
                key_at(k, i, scales.y), key_at(k, i + 1u, scales.y),
                key_at(k, i + 2u, scales.y), key_at(k, i + 3u, scales.y),
            );
        }
    }
    var top = lowest;
    var total = 0.0;
    var acc0 = 0.0;
    var acc1 = 0.0;
    for (var start = from_row; start < to_row; start += 128u) {
        workgroupBarrier();
        let position = start + local;
        var score = lowest;
        if position < to_row {
            var sum = vec4<f32>();
            if position == own_row {
                for (var i = 0u; i < dim4; i++) {
                    sum = fma(query[i], own_key[i], sum);
                }
            } else {
                let at = (position * row + kv * dim) / 4u;
                for (var i = 0u; i < dim4; i++) {
                    sum = fma(query[i], keys[at + i], sum);
                }
            }
            score = ((sum.x + sum.y) + (sum.z + sum.w)) * params.scale;
        }
        partial[local] = score;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                partial[local] = max(partial[local], partial[local + half]);
            }
        }
        workgroupBarrier();
        let new_top = max(top, partial[0]);
        let shrink = exp(top - new_top);
        workgroupBarrier();
        let w = select(0.0, exp(score - new_top), position < to_row);
        weight[local] = w;
        partial[local] = w;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                partial[local] += partial[local + half];
            }
        }
        workgroupBarrier();
        total = fma(total, shrink, partial[0]);
        top = new_top;
        let end = min(start + 128u, to_row);
        // the token's own value, the last, is not in the cache
        let cached = min(end, own_row);
        acc0 *= shrink;
        acc1 *= shrink;
        if local < dim {
            for (var r = start; r < cached; r++) {
                acc0 = fma(weight[r - start], values[r * row + kv * dim + local], acc0);
            }
            if cached < end {
                acc0 = fma(weight[cached - start], element(0u, v + local), acc0);
            }
        }
        if local + 128u < dim {
            for (var r = start; r < cached; r++) {
                acc1 = fma(weight[r - start], values[r * row + kv * dim + local + 128u], acc1);
            }
            if cached < end {
                acc1 = fma(weight[cached - start], element(0u, v + local + 128u), acc1);
            }
        }
    }
    if own_row >= from_row && own_row < to_row && head % (heads / kv_heads) == 0u {
        let to = own_row * row + kv * dim;
        if local < dim4 {
            keys[to / 4u + local] = own_key[local];
        }
        for (var i = local; i < dim; i += 128u) {
            values[to + i] = element(0u, v + i);
        }
    }
    if params.splits == 1u {
        if has_sinks == 1u {
            let sink = vectors[params.sinks + head];
            let new_top = max(top, sink);
            let shrink = exp(top - new_top);
            total = fma(total, shrink, exp(sink - new_top));
            acc0 *= shrink;
            acc1 *= shrink;
        }
        if local < dim {
            finish(head, local, acc0, total);
        }
        if local + 128u < dim {
            finish(head, local + 128u, acc1, total);
        }
        if pack == 1u {
            pack_head(local, dim, head, heads, 0u);
        }
        return;
    }
    let at = (head * params.splits + params.first_split + group.y) * (dim + 4u);
    if local == 0u {
        scratch[at] = top;
        scratch[at + 1u] = total;
    }
    if local < dim {
        scratch[at + 4u + local] = acc0;
    }
    if local + 128u < dim {
        scratch[at + 4u + local + 128u] = acc1;
    }
}
