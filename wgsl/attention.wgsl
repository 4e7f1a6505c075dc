// Attention in decode, of one query head over one split of the KV cache, by online softmax over runs of 128 positions.
// Query, key and value of the token get their bias, norm and rotation here, and whoever has the last split writes key and
// value to the cache: whoever reads them there in the same step makes nothing of it. Prompts take attention_prefill*.wgsl, and so
// do tokens deep in a context on some devices.
// Leaves (max, sum of exponentials, unnormalised output) for attention_merge.wgsl; a split that is alone adds the sink,
// divides and applies the output gate itself.

//import head
//import keys
//import pack_head
//import ready
//import rotated_head
//import turn
//import values

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
override sharers: u32 = 1024u / dim; // threads that share four columns of the values
override q_head: u32 = 2u * dim; // elements from one query head to the next: dim, or twice that with a gate

@group(0) @binding(0) var<storage, read> x: array<f32>; // [1, q and gate | k | v]
@group(0) @binding(1) var<storage, read> vectors: array<f32>; // q_norm and k_norm [dim], bias [columns of x], sinks [heads]
@group(0) @binding(2) var<storage, read> rope: array<f32>; // [1, cos | sin]
@group(0) @binding(3) var<storage, read_write> keys: array<KeyCell>; // [positions, kv_heads, key_cells]
@group(0) @binding(4) var<storage, read_write> values: array<ValueCell>; // [positions, kv_heads, value_cells]
@group(0) @binding(5) var<storage, read_write> scratch: array<f32>; // [heads, splits, (max, sum, 0, 0) and dim]
@group(0) @binding(6) var<storage, read_write> out: array<u32>; // [1, heads * dim], bits of f32, or words: see shared/quantise.wgsl

const lowest: f32 = -3.0e38;
const threads: u32 = 256u;

// Scores of a run, [position of 128, thread of 16] in rows of 17, which lie in other banks; then outputs, [sharer, dim].
var<workgroup> shared_sums: array<f32, 2176>;
// `y` has the scores of a run, then from 128 on their weights; then the head's outputs.
var<workgroup> eighths: array<f32, 8>; // of what all 128 come to

// A thread's share of the score of a position of the run; the token's own key is not in the cache.
fn share_score(p: u32, own_place: u32, lane: u32, sum: vec4<f32>) {
    if p != own_place {
        shared_sums[p * 17u + lane] = (sum.x + sum.y) + (sum.z + sum.w);
    }
}

// Weight of position `p` of the run, of which `many` are in the cache.
fn weight_at(p: u32, many: u32) -> vec4<f32> {
    let at = min(p, 127u);
    return vec4<f32>(select(0.0, y[128u + at], p < many));
}

// What eight rows of values give, a sharer's from position `p` of the run on: all are on their way at once. `first` is the
// head's cell of the run's first position, and `row` the cells from one position to the next.
fn add_values(acc: vec4<f32>, first: u32, p: u32, many: u32, row: u32, column: u32) -> vec4<f32> {
    let last = many - 1u;
    let v0 = value_quad(first + min(p, last) * row, column);
    let v1 = value_quad(first + min(p + sharers, last) * row, column);
    let v2 = value_quad(first + min(p + 2u * sharers, last) * row, column);
    let v3 = value_quad(first + min(p + 3u * sharers, last) * row, column);
    let v4 = value_quad(first + min(p + 4u * sharers, last) * row, column);
    let v5 = value_quad(first + min(p + 5u * sharers, last) * row, column);
    let v6 = value_quad(first + min(p + 6u * sharers, last) * row, column);
    let v7 = value_quad(first + min(p + 7u * sharers, last) * row, column);
    var sum = fma(weight_at(p, many), v0, acc);
    sum = fma(weight_at(p + sharers, many), v1, sum);
    sum = fma(weight_at(p + 2u * sharers, many), v2, sum);
    sum = fma(weight_at(p + 3u * sharers, many), v3, sum);
    sum = fma(weight_at(p + 4u * sharers, many), v4, sum);
    sum = fma(weight_at(p + 5u * sharers, many), v5, sum);
    sum = fma(weight_at(p + 6u * sharers, many), v6, sum);
    return fma(weight_at(p + 7u * sharers, many), v7, sum);
}

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

// Applies the output gate to an element of the head.
fn finish(head: u32, i: u32) {
    var value = y[i];
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

@compute @workgroup_size(threads)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let kv = head / (heads / kv_heads);
    prepare_cache(local);
    let key_row = kv_heads * key_cells;
    let value_row = kv_heads * value_cells;
    // in the window; splits in front of the one that is seen first are left out
    let split_row = (params.first_seen / split + group.y) * split;
    let from_row = max(split_row, params.first_seen);
    let to_row = min(split_row + split, params.window_rows);
    // of the token: the last in the window that has it
    let own_row = params.position - params.window_start;
    let dim4 = dim / 4u;
    let q = head * q_head;
    let k = heads * q_head + kv * dim;
    let v = k + kv_heads * dim;
    var scales = vec2<f32>(1.0);
    if has_q_norm == 1u || has_k_norm == 1u {
        scales = 1.0 / sqrt(sums_of_squares(local, 0u, q, k) / f32(dim) + params.eps);
    }
    // whole vectors: threads that write parts of one would be in each other's way
    let i = 4u * (local % 64u);
    if i < dim && local < 192u {
        if local < 64u {
            own[local] = vec4<f32>(
                key_at(k, i, scales.y), key_at(k, i + 1u, scales.y),
                key_at(k, i + 2u, scales.y), key_at(k, i + 3u, scales.y),
            );
        } else if local < 128u {
            let first = v + i;
            own[local] = vec4<f32>(
                element(0u, first), element(0u, first + 1u), element(0u, first + 2u), element(0u, first + 3u),
            );
        } else {
            own[local] = vec4<f32>(
                query_at(q, i, scales.x), query_at(q, i + 1u, scales.x),
                query_at(q, i + 2u, scales.x), query_at(q, i + 3u, scales.x),
            );
        }
    }
    ready_own(local, 192u);
    if own_row >= from_row && own_row < to_row && head % (heads / kv_heads) == 0u {
        let of_row = own_row * kv_heads + kv;
        if local < key_cells {
            keys[of_row * key_cells + local] = key_cell(local);
        }
        if local < value_cells {
            values[of_row * value_cells + local] = value_cell(local);
        }
    }
    // the token sees of itself what others will see of it
    let zero = params.splits >> 31u; // there are never so many, and no driver knows: see shared/cache_f16.wgsl
    var kept = vec4<f32>();
    if i < dim && local < 64u {
        kept = kept_key(local, zero);
    } else if i < dim && local < 128u {
        kept = kept_value(local - 64u, zero);
    }
    workgroupBarrier();
    if i < dim && local < 128u {
        own[local] = kept;
    }
    // 16 threads share a position, and others four columns of the values: they read side by side
    let lane = local % 16u;
    let column = local % dim4;
    let sharer = local / dim4;
    var top = lowest;
    var total = 0.0;
    var acc = vec4<f32>();
    for (var start = from_row; start < to_row; start += 128u) {
        let end = min(start + 128u, to_row);
        // of the run, or past its end
        let own_place = own_row - start;
        workgroupBarrier();
        for (var p = local / 16u; start + p < end; p += threads / 4u) {
            let first = start * key_row + kv * key_cells;
            let last = end - 1u - start;
            let k0 = first + p * key_row;
            let k1 = first + min(p + threads / 16u, last) * key_row;
            let k2 = first + min(p + threads / 8u, last) * key_row;
            let k3 = first + min(p + threads / 16u * 3u, last) * key_row;
            var s0 = vec4<f32>();
            var s1 = vec4<f32>();
            var s2 = vec4<f32>();
            var s3 = vec4<f32>();
            for (var i = lane; i < dim4; i += 16u) {
                let of_query = own[128u + i];
                s0 = fma(of_query, key_quad(k0, i), s0);
                s1 = fma(of_query, key_quad(k1, i), s1);
                s2 = fma(of_query, key_quad(k2, i), s2);
                s3 = fma(of_query, key_quad(k3, i), s3);
            }
            share_score(p, own_place, lane, s0);
            share_score(p + threads / 16u, own_place, lane, s1);
            share_score(p + threads / 8u, own_place, lane, s2);
            share_score(p + threads / 16u * 3u, own_place, lane, s3);
        }
        if own_place < end - start && local < 16u {
            var sum = vec4<f32>();
            for (var i = lane; i < dim4; i += 16u) {
                sum = fma(own[128u + i], own[i], sum);
            }
            shared_sums[own_place * 17u + lane] = (sum.x + sum.y) + (sum.z + sum.w);
        }
        workgroupBarrier();
        var score = lowest;
        if local < 128u {
            if start + local < end {
                let at = local * 17u;
                var sum = vec4<f32>();
                for (var i = at; i < at + 16u; i += 4u) {
                    sum += vec4<f32>(shared_sums[i], shared_sums[i + 1u], shared_sums[i + 2u], shared_sums[i + 3u]);
                }
                score = ((sum.x + sum.y) + (sum.z + sum.w)) * params.scale;
            }
            y[local] = score;
        }
        workgroupBarrier();
        if local < 8u {
            var largest = lowest;
            for (var i = local; i < 128u; i += 8u) {
                largest = max(largest, y[i]);
            }
            eighths[local] = largest;
        }
        workgroupBarrier();
        var new_top = top;
        for (var i = 0u; i < 8u; i++) {
            new_top = max(new_top, eighths[i]);
        }
        let shrink = exp(top - new_top);
        top = new_top;
        if local < 128u {
            y[128u + local] = select(0.0, exp(score - top), start + local < end);
        }
        workgroupBarrier();
        if local < 8u {
            var sum = 0.0;
            for (var i = local; i < 128u; i += 8u) {
                sum += y[128u + i];
            }
            eighths[local] = sum;
        }
        workgroupBarrier();
        let sum = ((eighths[0] + eighths[1]) + (eighths[2] + eighths[3]))
            + ((eighths[4] + eighths[5]) + (eighths[6] + eighths[7]));
        total = fma(total, shrink, sum);
        acc *= shrink;
        if sharer < sharers {
            let many = min(end, own_row) - start;
            for (var p = sharer; p < many; p += 8u * sharers) {
                acc = add_values(acc, start * value_row + kv * value_cells, p, many, value_row, column);
            }
            if own_place < end - start && sharer == 0u {
                acc = fma(weight_at(own_place, end - start), own[64u + column], acc);
            }
        }
    }
    // scores were read before the last barrier
    if sharer < sharers {
        let at = sharer * dim + 4u * column;
        shared_sums[at] = acc.x;
        shared_sums[at + 1u] = acc.y;
        shared_sums[at + 2u] = acc.z;
        shared_sums[at + 3u] = acc.w;
    }
    workgroupBarrier();
    var mine = 0.0;
    if local < dim {
        for (var i = 0u; i < sharers; i++) {
            mine += shared_sums[i * dim + local];
        }
    }
    if params.splits == 1u {
        if has_sinks == 1u {
            let sink = vectors[params.sinks + head];
            let new_top = max(top, sink);
            let shrink = exp(top - new_top);
            total = fma(total, shrink, exp(sink - new_top));
            mine *= shrink;
        }
        if local < dim {
            y[local] = mine / total;
        }
        turn_head(local, dim, true);
        if local < dim {
            finish(head, local);
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
        scratch[at + 4u + local] = mine;
    }
}
