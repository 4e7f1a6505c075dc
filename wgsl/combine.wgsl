// Adds the routed experts, weighted, and the shared expert, gated, to the residual stream.
// x[t, i] += sum_k weights[t, k] * routed[t * top_k + k, i] + sigmoid(gate[t]) * shared[t, i]

struct Params {
    width: u32,
    top_k: u32,
    x_stride: u32,
    routed_stride: u32,
    weights_stride: u32,
    shared_stride: u32, // 0: no shared expert
    gate_offset: u32,
    gate_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> routed: array<f32>; // [tokens * top_k, width]
@group(0) @binding(1) var<storage, read> expert_weights: array<f32>; // [tokens, top_k]
@group(0) @binding(2) var<storage, read> shared_out: array<f32>; // [tokens, width]
@group(0) @binding(3) var<storage, read> gate: array<f32>; // [tokens, 1]
@group(0) @binding(4) var<storage, read_write> x: array<f32>; // [tokens, width]

@compute @workgroup_size(64)
fn combine(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    let t = id.y;
    if i >= params.width {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.top_k; k++) {
        sum = fma(expert_weights[t * params.weights_stride + k], routed[(t * params.top_k + k) * params.routed_stride + i], sum);
    }
    if params.shared_stride > 0u {
        let g = gate[params.gate_offset + t * params.gate_stride];
        sum = fma(1.0 / (1.0 + exp(-g)), shared_out[t * params.shared_stride + i], sum);
    }
    x[t * params.x_stride + i] += sum;
}
