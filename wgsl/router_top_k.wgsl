// What follows the product of router and shared expert, in one dispatch: workgroup 0 of a token chooses its experts, the
// others take the SwiGLU of the shared expert, `threads` elements each.
// ids = the top_k experts by logit, ties to the lowest index, NaN last ; with a correction or groups by s + correction, in
// the chosen groups alone, where s = softmax(logits) or sigmoid(logits)
// weights = scale * s, of softmax over the chosen experts alone (renormalise), of others divided by the sum of the chosen
// with_pairs: pairs[t * top_k + k] = (t, t * top_k + k, place, slab)
// hidden[t, i] = silu(gate_up[t, i]) * gate_up[t, width + i], in 8 bits where `pack` is 1
// An expert's rank is the number of experts before it: no step waits for the one before.

//import gated

struct Params {
    experts: u32,
    top_k: u32,
    renormalise: u32,
    x_offset: u32,
    x_stride: u32,
    ids_stride: u32,
    weights_stride: u32,
    first_slot: u32, // of the layer
    with_pairs: u32,
    width: u32, // of the shared expert
    gate_up_offset: u32,
    gate_up_stride: u32,
    hidden_stride: u32,
    scale: f32,
}
var<immediate> params: Params;

override threads: u32 = 256u;
override is_sigmoid: u32 = 0u; // scores: 0 softmax, 1 sigmoid
override has_correction: u32 = 0u;
override groups: u32 = 1u; // of experts; never 0, which WGSL may not divide by
override chosen_groups: u32 = 0u; // 0: no groups

@group(0) @binding(0) var<storage, read> logits: array<u32>; // [tokens, experts], bits of f32
@group(0) @binding(1) var<storage, read> slots: array<vec2<u32>>; // [layers * experts] (place, slab)
@group(0) @binding(2) var<storage, read> gate_up: array<f32>; // [tokens, 2 * width]
@group(0) @binding(3) var<storage, read> correction: array<f32>; // [experts]
@group(0) @binding(4) var<storage, read_write> ids: array<u32>; // [tokens, top_k]
@group(0) @binding(5) var<storage, read_write> expert_weights: array<f32>; // [tokens, top_k]
@group(0) @binding(6) var<storage, read_write> pairs: array<vec4<u32>>; // [tokens * top_k]
@group(0) @binding(7) var<storage, read_write> hidden: array<u32>; // [tokens, width], bits of f32, or words: see shared/quantise.wgsl

const nothing: u32 = 0u;
const not_a_number: u32 = 1u;

var<workgroup> key: array<vec4<u32>, 256>;
var<workgroup> chosen_key: array<u32, 32>;
var<workgroup> chosen_index: array<u32, 32>;

// Integers in the order of the numbers, NaN below them: drivers may compare floats as if there were no NaN.
fn key_of(bits: u32) -> u32 {
    let number = select(bits ^ 0x80000000u, ~bits, bits >= 0x80000000u);
    return select(number, not_a_number, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn value_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key ^ 0x80000000u, key >= 0x80000000u));
}

fn logit_at(token: u32, e: u32) -> u32 {
    return logits[params.x_offset + token * params.x_stride + min(e, params.experts - 1u)];
}

fn key_at(token: u32, e: u32) -> u32 {
    return select(key_of(logit_at(token, e)), nothing, e >= params.experts);
}

// Of the logits that `key` holds: the largest, and the sum of exponentials. For softmax by score, which few models have.
fn softmax_of_all() -> vec2<f32> {
    var top = nothing;
    for (var e = 0u; e < params.experts; e++) {
        top = max(top, key[e / 4u][e % 4u]);
    }
    var sum = 0.0;
    for (var e = 0u; e < params.experts; e++) {
        sum += exp(value_of(key[e / 4u][e % 4u]) - value_of(top));
    }
    return vec2<f32>(value_of(top), sum);
}

fn score_at(token: u32, e: u32, softmax: vec2<f32>) -> f32 {
    let logit = bitcast<f32>(logit_at(token, e));
    if is_sigmoid == 1u {
        return 1.0 / (1.0 + exp(-logit));
    }
    return exp(logit - softmax.x) / softmax.y;
}

fn corrected_key_at(token: u32, e: u32, softmax: vec2<f32>) -> u32 {
    var score = score_at(token, e, softmax);
    if has_correction == 1u {
        score += correction[min(e, params.experts - 1u)];
    }
    return select(key_of(bitcast<u32>(score)), nothing, e >= params.experts);
}

// Experts of a group.
fn group_size() -> u32 {
    return params.experts / max(groups, 1u);
}

// The sum of the two best scores of a group.
fn group_key(group: u32) -> u32 {
    let size = group_size();
    var best = nothing;
    var second = nothing;
    for (var e = group * size; e < (group + 1u) * size; e++) {
        let k = key[e / 4u][e % 4u];
        second = max(second, min(best, k));
        best = max(best, k);
    }
    return key_of(bitcast<u32>(value_of(best) + value_of(second)));
}

// Whether an expert is in one of the best groups, whose keys `chosen_key` holds.
fn is_looked_at(e: u32) -> bool {
    let group = min(e, params.experts - 1u) / group_size();
    var rank = 0u;
    for (var other = 0u; other < groups; other++) {
        let is_before = chosen_key[other] > chosen_key[group]
            || (chosen_key[other] == chosen_key[group] && other < group);
        rank += select(0u, 1u, is_before);
    }
    return rank < chosen_groups;
}

// Keys of scores with their correction in the place of keys of logits, and none for experts that are not looked at. What
// a softmax over all experts needs.
fn take_scores(token: u32, local: u32, padded: u32) -> vec2<f32> {
    var softmax = vec2<f32>();
    if is_sigmoid == 0u {
        softmax = softmax_of_all();
        workgroupBarrier();
    }
    for (var i = local; i < padded / 4u; i += threads) {
        let e = 4u * i;
        key[i] = vec4<u32>(
            corrected_key_at(token, e, softmax), corrected_key_at(token, e + 1u, softmax),
            corrected_key_at(token, e + 2u, softmax), corrected_key_at(token, e + 3u, softmax),
        );
    }
    workgroupBarrier();
    if chosen_groups > 0u {
        if local < groups {
            chosen_key[local] = group_key(local);
        }
        workgroupBarrier();
        for (var i = local; i < padded / 4u; i += threads) {
            let e = 4u * i;
            let looked_at = vec4<bool>(
                is_looked_at(e), is_looked_at(e + 1u), is_looked_at(e + 2u), is_looked_at(e + 3u),
            );
            key[i] = select(vec4<u32>(nothing), key[i], looked_at);
        }
        workgroupBarrier();
    }
    return softmax;
}

// Which of the four experts from `first` on come before expert `e`.
fn before(first: u32, mine: u32, e: u32) -> vec4<u32> {
    let others = key[first / 4u];
    let index = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
    let is_before = (others > vec4<u32>(mine)) | ((others == vec4<u32>(mine)) & (index < vec4<u32>(e)));
    return select(vec4<u32>(), vec4<u32>(1u), is_before);
}

// Of the expert with rank `rank`: softmax over the chosen or over all.
fn weight_by_logit(rank: u32) -> f32 {
    let top = value_of(chosen_key[0]);
    var sum = 0.0;
    if params.renormalise == 1u {
        for (var k = 0u; k < params.top_k; k++) {
            sum += exp(value_of(chosen_key[k]) - top);
        }
    } else {
        for (var e = 0u; e < params.experts; e++) {
            sum += exp(value_of(key[e / 4u][e % 4u]) - top);
        }
    }
    return exp(value_of(chosen_key[rank]) - top) / sum;
}

fn weight_by_score(token: u32, expert: u32, softmax: vec2<f32>) -> f32 {
    let score = score_at(token, expert, softmax);
    if params.renormalise == 0u {
        return score;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.top_k; k++) {
        sum += score_at(token, chosen_index[k], softmax);
    }
    return score / (sum + 1e-20);
}

fn choose(token: u32, local: u32) {
    // whole runs of 16
    let padded = (params.experts + 15u) / 16u * 16u;
    for (var i = local; i < padded / 4u; i += threads) {
        let e = 4u * i;
        key[i] = vec4<u32>(key_at(token, e), key_at(token, e + 1u), key_at(token, e + 2u), key_at(token, e + 3u));
    }
    workgroupBarrier();
    let by_score = has_correction == 1u || chosen_groups > 0u;
    var softmax = vec2<f32>();
    if by_score {
        softmax = take_scores(token, local, padded);
    }
    for (var e = local; e < params.experts; e += threads) {
        let mine = key[e / 4u][e % 4u];
        // on its way while ranks are counted
        var slot = vec2<u32>();
        if params.with_pairs == 1u {
            slot = slots[params.first_slot + e];
        }
        var ranks = vec4<u32>();
        for (var other = 0u; other < padded; other += 16u) {
            ranks += (before(other, mine, e) + before(other + 4u, mine, e))
                + (before(other + 8u, mine, e) + before(other + 12u, mine, e));
        }
        let rank = (ranks.x + ranks.y) + (ranks.z + ranks.w);
        if rank < params.top_k {
            chosen_key[rank] = mine;
            chosen_index[rank] = e;
            ids[token * params.ids_stride + rank] = e;
            if params.with_pairs == 1u {
                let row = token * params.top_k + rank;
                pairs[row] = vec4<u32>(token, row, slot.x, slot.y);
            }
        }
    }
    workgroupBarrier();
    if local < params.top_k {
        var weight = 0.0;
        if by_score || is_sigmoid == 1u {
            weight = weight_by_score(token, chosen_index[local], softmax);
        } else {
            weight = weight_by_logit(local);
        }
        expert_weights[token * params.weights_stride + local] = weight * params.scale;
    }
}

@compute @workgroup_size(threads)
fn router_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if group.x == 0u {
        choose(group.y, local);
        return;
    }
    write_gated(local, group.y, (group.x - 1u) * threads + local);
}
