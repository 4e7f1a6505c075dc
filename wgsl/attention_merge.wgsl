// Joins the splits that attention.wgsl or attention_prefill*.wgsl left, turns back what was turned, and applies the output
// gate. One workgroup per head and token.
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
    first: u32, // element of the scratch
    bias: u32, // where they begin in `vectors`
    sinks: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> scratch: array<f32>; // [tokens, heads, splits, (max, sum, 0, 0) and dim]
@group(0) @binding(1) var<storage, read> gate: array<f32>; // [tokens, heads * dim]
@group(0) @binding(2) var<storage, read> vectors: array<f32>; // bias [columns of gate], sinks [heads]
@group(0) @binding(3) var<storage, read_write> out: array<u32>; // [tokens, heads * dim], bits of f32, or words: see shared/quantise.wgsl

override pack: u32 = 0u; // 1: `out` in 8 bits
override has_bias: u32 = 0u;
override has_sinks: u32 = 0u;

// Exactly 1 for the split with the maximum and 0 for one that the token does not see, whatever the driver's exp: splits
// that a token does not see change no bit.
fn share(of_split: f32, top: f32) -> f32 {
    return select(select(exp(of_split - top), 0.0, of_split <= -3.0e38), 1.0, of_split == top);
}

@compute @workgroup_size(64)
fn attention_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let token = group.y;
    let size = params.dim + 4u;
    let first = params.first + (token * params.heads + head) * params.splits * size;
    var top = -3.0e38;
    for (var s = 0u; s < params.splits; s++) {
        top = max(top, scratch[first + s * size]);
    }
    var total = 0.0;
    if has_sinks == 1u {
        let sink = vectors[params.sinks + head];
        top = max(top, sink);
        total = share(sink, top);
    }
    for (var s = 0u; s < params.splits; s++) {
        total = fma(share(scratch[first + s * size], top), scratch[first + s * size + 1u], total);
    }
    for (var i = local; i < params.dim; i += 64u) {
        var sum = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            sum = fma(share(scratch[first + s * size], top), scratch[first + s * size + 4u + i], sum);
        }
        y[i] = sum / total;
    }
    turn_head(local, params.dim, true);
    for (var i = local; i < params.dim; i += 64u) {
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
