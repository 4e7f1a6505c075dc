// The top_k experts of each token by router logit, ties to the lowest index, and their weights. One workgroup a token.
// weights = softmax(logits) over the chosen (renormalise) or over all experts. NaN comes last.
// An expert's rank is the number of experts before it: no step waits for the one before.

struct Params {
    experts: u32,
    top_k: u32,
    renormalise: u32,
    x_offset: u32,
    x_stride: u32,
    ids_stride: u32,
    weights_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> logits: array<u32>; // [tokens, experts], bits of f32
@group(0) @binding(1) var<storage, read_write> ids: array<u32>; // [tokens, top_k]
@group(0) @binding(2) var<storage, read_write> expert_weights: array<f32>; // [tokens, top_k]

const not_a_number: u32 = 1u;

var<workgroup> key: array<u32, 1024>;
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

@compute @workgroup_size(256)
fn router_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var e = local; e < params.experts; e += 256u) {
        key[e] = key_of(logits[params.x_offset + group.x * params.x_stride + e]);
    }
    workgroupBarrier();
    for (var e = local; e < params.experts; e += 256u) {
        let mine = key[e];
        var rank = 0u;
        for (var other = 0u; other < params.experts; other++) {
            rank += select(0u, 1u, key[other] > mine || (key[other] == mine && other < e));
        }
        if rank < params.top_k {
            chosen_key[rank] = mine;
            chosen_index[rank] = e;
        }
    }
    workgroupBarrier();
    if local == 0u {
        let top = value_of(chosen_key[0]);
        var sum = 0.0;
        if params.renormalise == 1u {
            for (var k = 0u; k < params.top_k; k++) {
                sum += exp(value_of(chosen_key[k]) - top);
            }
        } else {
            for (var e = 0u; e < params.experts; e++) {
                sum += exp(value_of(key[e]) - top);
            }
        }
        for (var k = 0u; k < params.top_k; k++) {
            ids[group.x * params.ids_stride + k] = chosen_index[k];
            expert_weights[group.x * params.weights_stride + k] = exp(value_of(chosen_key[k]) - top) / sum;
        }
    }
}
