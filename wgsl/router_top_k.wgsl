// The top_k experts of each token by router logit, ties to the lowest index, and their weights. One workgroup a token.
// An expert's rank is the number of experts before it: no step waits for the one before.
// weights = softmax(logits) over the chosen (renormalise) or over all experts

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

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [tokens, experts]
@group(0) @binding(1) var<storage, read_write> ids: array<u32>; // [tokens, top_k]
@group(0) @binding(2) var<storage, read_write> expert_weights: array<f32>; // [tokens, top_k]

var<workgroup> value: array<f32, 1024>;
var<workgroup> chosen_value: array<f32, 32>;
var<workgroup> chosen_index: array<u32, 32>;

@compute @workgroup_size(256)
fn router_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var e = local; e < params.experts; e += 256u) {
        value[e] = logits[params.x_offset + group.x * params.x_stride + e];
    }
    if local < 32u {
        // what is left of this after NaN logits tells the host
        chosen_index[local] = 0xffffffffu;
    }
    workgroupBarrier();
    for (var e = local; e < params.experts; e += 256u) {
        let mine = value[e];
        var rank = 0u;
        for (var other = 0u; other < params.experts; other++) {
            let v = value[other];
            rank += select(0u, 1u, v > mine || (v == mine && other < e));
        }
        if rank < params.top_k && mine == mine {
            chosen_value[rank] = mine;
            chosen_index[rank] = e;
        }
    }
    workgroupBarrier();
    if local == 0u {
        let top = chosen_value[0];
        var sum = 0.0;
        if params.renormalise == 1u {
            for (var k = 0u; k < params.top_k; k++) {
                sum += exp(chosen_value[k] - top);
            }
        } else {
            for (var e = 0u; e < params.experts; e++) {
                sum += exp(value[e] - top);
            }
        }
        for (var k = 0u; k < params.top_k; k++) {
            ids[group.x * params.ids_stride + k] = chosen_index[k];
            expert_weights[group.x * params.weights_stride + k] = exp(chosen_value[k] - top) / sum;
        }
    }
}
