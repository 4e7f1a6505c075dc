// What follows the product of router and shared expert, in one dispatch: workgroup 0 of a token chooses its experts, the
// others take the SwiGLU of the shared expert, `threads` elements each.
// ids = the top_k experts by logit, ties to the lowest index, NaN last ; weights = softmax(logits) over the chosen
// (renormalise) or over all experts ; with all experts in memory pairs[t * top_k + k] = (t, t * top_k + k, place, slab)
// hidden[t, i] = silu(gate_up[t, i]) * gate_up[t, width + i]
// An expert's rank is the number of experts before it: no step waits for the one before.

struct Params {
    experts: u32,
    top_k: u32,
    renormalise: u32,
    x_offset: u32,
    x_stride: u32,
    ids_stride: u32,
    weights_stride: u32,
    first_slot: u32, // of the layer
    all_resident: u32,
    width: u32, // of the shared expert
    gate_up_offset: u32,
    gate_up_stride: u32,
    hidden_stride: u32,
}
var<immediate> params: Params;

override threads: u32 = 256u;

@group(0) @binding(0) var<storage, read> logits: array<u32>; // [tokens, experts], bits of f32
@group(0) @binding(1) var<storage, read> slots: array<vec2<u32>>; // [layers * experts] (place, slab)
@group(0) @binding(2) var<storage, read> gate_up: array<f32>; // [tokens, 2 * width]
@group(0) @binding(3) var<storage, read_write> ids: array<u32>; // [tokens, top_k]
@group(0) @binding(4) var<storage, read_write> expert_weights: array<f32>; // [tokens, top_k]
@group(0) @binding(5) var<storage, read_write> pairs: array<vec4<u32>>; // [tokens * top_k]
@group(0) @binding(6) var<storage, read_write> hidden: array<f32>; // [tokens, width]

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

fn key_at(token: u32, e: u32) -> u32 {
    let bits = logits[params.x_offset + token * params.x_stride + min(e, params.experts - 1u)];
    return select(key_of(bits), nothing, e >= params.experts);
}

// Which of the four experts from `first` on come before expert `e`.
fn before(first: u32, mine: u32, e: u32) -> vec4<u32> {
    let others = key[first / 4u];
    let index = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
    let is_before = (others > vec4<u32>(mine)) | ((others == vec4<u32>(mine)) & (index < vec4<u32>(e)));
    return select(vec4<u32>(), vec4<u32>(1u), is_before);
}

fn choose(token: u32, local: u32) {
    // whole runs of 16
    let padded = (params.experts + 15u) / 16u * 16u;
    for (var i = local; i < padded / 4u; i += threads) {
        let e = 4u * i;
        key[i] = vec4<u32>(key_at(token, e), key_at(token, e + 1u), key_at(token, e + 2u), key_at(token, e + 3u));
    }
    workgroupBarrier();
    for (var e = local; e < params.experts; e += threads) {
        let mine = key[e / 4u][e % 4u];
        var ranks = vec4<u32>();
        for (var other = 0u; other < padded; other += 16u) {
            ranks += (before(other, mine, e) + before(other + 4u, mine, e))
                + (before(other + 8u, mine, e) + before(other + 12u, mine, e));
        }
        let rank = (ranks.x + ranks.y) + (ranks.z + ranks.w);
        if rank < params.top_k {
            chosen_key[rank] = mine;
            chosen_index[rank] = e;
        }
    }
    workgroupBarrier();
    if local < params.top_k {
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
        let expert = chosen_index[local];
        ids[token * params.ids_stride + local] = expert;
        expert_weights[token * params.weights_stride + local] = exp(value_of(chosen_key[local]) - top) / sum;
        if params.all_resident == 1u {
            let slot = slots[params.first_slot + expert];
            let row = token * params.top_k + local;
            pairs[row] = vec4<u32>(token, row, slot.x, slot.y);
        }
    }
}

@compute @workgroup_size(threads)
fn router_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if group.x == 0u {
        choose(group.y, local);
        return;
    }
    let i = (group.x - 1u) * threads + local;
    if i < params.width {
        let at = params.gate_up_offset + group.y * params.gate_up_stride + i;
        let gate = gate_up[at];
        hidden[group.y * params.hidden_stride + i] = gate / (1.0 + exp(-gate)) * gate_up[at + params.width];
    }
}
