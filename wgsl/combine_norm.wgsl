// Adds the routed experts, weighted, and the shared expert, gated, to the residual stream, and norms it for what comes
// next: a layer or the logits. One workgroup per token.
// x[t, i] += sum_k weights[t, k] * routed[t * top_k + k, i] + sigmoid(gate[t]) * shared[t, i]
// out[t, i] = x[t, i] / sqrt(mean(x[t]^2) + eps) * norm[i]

struct Params {
    width: u32, // in vec4, as the strides of x, routed, shared and out
    x_stride: u32,
    routed_stride: u32,
    weights_stride: u32, // in f32
    shared_stride: u32, // 0: no shared expert
    gate_offset: u32, // in f32
    gate_stride: u32, // in f32
    out_stride: u32,
    eps: f32,
}
var<immediate> params: Params;

override top_k: u32 = 8u;

@group(0) @binding(0) var<storage, read> routed: array<vec4<f32>>; // [tokens * top_k, width]
@group(0) @binding(1) var<storage, read> expert_weights: array<f32>; // [tokens, top_k]
@group(0) @binding(2) var<storage, read> shared_out: array<vec4<f32>>; // [tokens, width]
@group(0) @binding(3) var<storage, read> gate: array<f32>; // [tokens, 1]
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>; // [width]
@group(0) @binding(5) var<storage, read_write> x: array<vec4<f32>>; // [tokens, width]
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>; // [tokens, width]

fn weight_of(t: u32, k: u32) -> f32 {
    return select(expert_weights[t * params.weights_stride + min(k, top_k - 1u)], 0.0, k >= top_k);
}

fn routed_at(t: u32, k: u32, i: u32) -> vec4<f32> {
    return routed[(t * top_k + min(k, top_k - 1u)) * params.routed_stride + i];
}

@compute @workgroup_size(threads)
fn combine_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group.x;
    let row = t * params.x_stride;
    var share = 0.0;
    if params.shared_stride > 0u {
        share = 1.0 / (1.0 + exp(-gate[params.gate_offset + t * params.gate_stride]));
    }
    var squares = 0.0;
    var first = vec4<f32>();
    for (var i = local; i < params.width; i += threads) {
        let old = x[row + i];
        var sum = vec4<f32>();
        // four experts are on their way at a time
        for (var k = 0u; k < top_k; k += 4u) {
            let r0 = routed_at(t, k, i);
            let r1 = routed_at(t, k + 1u, i);
            let r2 = routed_at(t, k + 2u, i);
            let r3 = routed_at(t, k + 3u, i);
            sum = fma(vec4<f32>(weight_of(t, k)), r0, sum);
            sum = fma(vec4<f32>(weight_of(t, k + 1u)), r1, sum);
            sum = fma(vec4<f32>(weight_of(t, k + 2u)), r2, sum);
            sum = fma(vec4<f32>(weight_of(t, k + 3u)), r3, sum);
        }
        if params.shared_stride > 0u {
            sum = fma(vec4<f32>(share), shared_out[t * params.shared_stride + i], sum);
        }
        let v = old + sum;
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
}
