// The top_k experts of each token by router logit, ties to the lowest index, and their weights. One workgroup a token.
// weights = softmax(logits) over the chosen (renormalise) or over all experts. NaN comes last.

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

var<workgroup> key: array<u32, 1024>; // 0 once it is taken
var<workgroup> best_key: array<u32, 128>;
var<workgroup> best_index: array<u32, 128>;
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

@compute @workgroup_size(128)
fn router_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var e = local; e < params.experts; e += 128u) {
        key[e] = key_of(logits[params.x_offset + group.x * params.x_stride + e]);
    }
    for (var k = 0u; k < params.top_k; k++) {
        workgroupBarrier();
        var best = 0u;
        var index = 0xffffffffu;
        for (var e = local; e < params.experts; e += 128u) {
            if key[e] > best {
                best = key[e];
                index = e;
            }
        }
        best_key[local] = best;
        best_index[local] = index;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                let other = best_key[local + half];
                let other_index = best_index[local + half];
                if other > best_key[local] || (other == best_key[local] && other_index < best_index[local]) {
                    best_key[local] = other;
                    best_index[local] = other_index;
                }
            }
        }
        workgroupBarrier();
        if local == 0u {
            chosen_key[k] = best_key[0];
            chosen_index[k] = best_index[0];
            key[best_index[0]] = 0u;
        }
    }
    workgroupBarrier();
    if local == 0u {
        let top = value_of(chosen_key[0]);
        var sum = 0.0;
        for (var k = 0u; k < params.top_k; k++) {
            sum += exp(value_of(chosen_key[k]) - top);
        }
        if params.renormalise == 0u {
            for (var e = 0u; e < params.experts; e++) {
                if key[e] > 0u {
                    sum += exp(value_of(key[e]) - top);
                }
            }
        }
        for (var k = 0u; k < params.top_k; k++) {
            ids[group.x * params.ids_stride + k] = chosen_index[k];
            expert_weights[group.x * params.weights_stride + k] = exp(value_of(chosen_key[k]) - top) / sum;
        }
    }
}
