// Adds the routed experts, weighted, and the shared expert, gated or as it is, to the residual stream, and norms
// it for what comes next: a layer or the logits. One workgroup per token.
// x[t, i] += sum_k weights[t, k] * routed[t * top_k + k, i] + sigmoid(gate[t]) * shared[t, i]
// out[t, i] = x[t, i] / sqrt(mean(x[t]^2) + eps) * norm[i], in 8 bits too where `pack` is 1

//import combined
//import pack_row
//import sum_over_threads

struct Params {
    width: u32, // in vec4, as the strides of x, routed, shared and out
    x_stride: u32,
    routed_stride: u32,
    weights_stride: u32, // in f32
    shared_stride: u32, // 0: no shared expert
    gate_offset: u32, // in f32
    gate_stride: u32, // in f32; 0: no gate
    out_stride: u32,
    eps: f32,
    packed_stride: u32, // in words
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> routed: array<vec4<f32>>; // [tokens * top_k, width]
@group(0) @binding(1) var<storage, read> expert_weights: array<f32>; // [tokens, top_k]
@group(0) @binding(2) var<storage, read> shared_out: array<vec4<f32>>; // [tokens, width]
@group(0) @binding(3) var<storage, read> gate: array<f32>; // [tokens, 1]
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>; // [width]
@group(0) @binding(5) var<storage, read_write> x: array<vec4<f32>>; // [tokens, width]
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>; // [tokens, width]
@group(0) @binding(7) var<storage, read_write> packed: array<u32>; // [tokens, words]: see shared/quantise.wgsl

@compute @workgroup_size(threads)
fn combine_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group.x;
    let row = t * params.x_stride;
    let share = share_of(t);
    var squares = 0.0;
    var first = vec4<f32>();
    for (var i = local; i < params.width; i += threads) {
        let v = x[row + i] + combined(t, i, share);
        x[row + i] = v;
        squares += dot(v, v);
        if i == local {
            first = v;
        }
    }
    let scale = 1.0 / sqrt(sum_over_threads(local, squares) / f32(params.width * 4u) + params.eps);
    let to_row = t * params.out_stride;
    for (var i = local; i < params.width; i += threads) {
        var v = first;
        if i != local {
            v = x[row + i];
        }
        out[to_row + i] = v * scale * norm[i];
    }
    if pack == 1u {
        pack_row(local, params.width, to_row, t * params.packed_stride);
    }
}
