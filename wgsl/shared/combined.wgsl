// What the experts of a token add to its residual stream, in a shader with `routed`, `shared_out` and `gate` as
// combine.wgsl has them, `expert_weights: array<f32>`, and the parameters that go with them.

override top_k: u32 = 8u;

fn weight_of(t: u32, k: u32) -> f32 {
    return select(expert_weights[t * params.weights_stride + min(k, top_k - 1u)], 0.0, k >= top_k);
}

fn routed_at(t: u32, k: u32, i: u32) -> vec4<f32> {
    return routed[(t * top_k + min(k, top_k - 1u)) * params.routed_stride + i];
}

// What the shared expert of a token is multiplied with.
fn share_of(t: u32) -> f32 {
    if params.gate_stride > 0u {
        return 1.0 / (1.0 + exp(-gate[params.gate_offset + t * params.gate_stride]));
    }
    return 1.0;
}

// Four elements of the sum.
fn combined(t: u32, i: u32, share: f32) -> vec4<f32> {
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
    return sum;
}
