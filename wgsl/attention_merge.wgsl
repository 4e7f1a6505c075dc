// Joins the splits that attention.wgsl left, and applies the output gate. One workgroup per head and token.
// out[t, h] = sigmoid(gate[t, h]) * sum_s exp(max_s - max) acc_s / sum_s exp(max_s - max) total_s

struct Params {
    heads: u32,
    dim: u32,
    splits: u32,
    first_token: u32,
    out_stride: u32,
    gate_offset: u32,
    gate_stride: u32,
    gate_head: u32, // elements from one head's gate to the next; 0: no gate
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> scratch: array<f32>; // [tokens, heads, splits, dim + 2]
@group(0) @binding(1) var<storage, read> gate: array<f32>; // [tokens, heads * dim]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [tokens, heads * dim]

// Exactly 1 for the split with the maximum and 0 for one that the token does not see, whatever the driver's exp: a token
// that sees one split has the bits that attention.wgsl gives it when there is no other.
fn share(of_split: f32, top: f32) -> f32 {
    return select(select(exp(of_split - top), 0.0, of_split <= -3.0e38), 1.0, of_split == top);
}

@compute @workgroup_size(64)
fn attention_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let token = group.y;
    let size = params.dim + 2u;
    let first = (token * params.heads + head) * params.splits * size;
    var top = -3.0e38;
    for (var s = 0u; s < params.splits; s++) {
        top = max(top, scratch[first + s * size]);
    }
    var total = 0.0;
    for (var s = 0u; s < params.splits; s++) {
        total = fma(share(scratch[first + s * size], top), scratch[first + s * size + 1u], total);
    }
    for (var i = local; i < params.dim; i += 64u) {
        var sum = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            sum = fma(share(scratch[first + s * size], top), scratch[first + s * size + 2u + i], sum);
        }
        var y = sum / total;
        if params.gate_head > 0u {
            let g = gate[params.gate_offset + (params.first_token + token) * params.gate_stride + head * params.gate_head + i];
            y *= 1.0 / (1.0 + exp(-g));
        }
        out[(params.first_token + token) * params.out_stride + head * params.dim + i] = y;
    }
}
