// The top_k experts of each token by router logit, ties to the lowest index, and their weights. One workgroup a token.
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

const lowest: f32 = -3.4e38;

var<workgroup> value: array<f32, 1024>;
var<workgroup> best_value: array<f32, 128>;
var<workgroup> best_index: array<u32, 128>;
var<workgroup> chosen_value: array<f32, 32>;
var<workgroup> chosen_index: array<u32, 32>;

@compute @workgroup_size(128)
fn router_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var e = local; e < params.experts; e += 128u) {
        value[e] = logits[params.x_offset + group.x * params.x_stride + e];
    }
    for (var k = 0u; k < params.top_k; k++) {
        workgroupBarrier();
        var best = lowest;
        var index = 0xffffffffu;
        for (var e = local; e < params.experts; e += 128u) {
            // index is not yet set: take the first expert left even when its logit is the lowest there is
            var taken = false;
            for (var c = 0u; c < k; c++) {
                taken = taken || chosen_index[c] == e;
            }
            if !taken && (value[e] > best || index == 0xffffffffu) {
                best = value[e];
                index = e;
            }
        }
        best_value[local] = best;
        best_index[local] = index;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                let other = best_value[local + half];
                let other_index = best_index[local + half];
                if other > best_value[local] || (other == best_value[local] && other_index < best_index[local]) {
                    best_value[local] = other;
                    best_index[local] = other_index;
                }
            }
        }
        workgroupBarrier();
        if local == 0u {
            chosen_value[k] = best_value[0];
            chosen_index[k] = best_index[0];
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
