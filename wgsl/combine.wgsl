// Adds the routed experts, weighted, and the shared expert, gated or as it is, to the residual stream. 64 vectors of a
// token per workgroup; combine_norm.wgsl gives the same bits.
// x[t, i] += sum_k weights[t, k] * routed[t * top_k + k, i] + sigmoid(gate[t]) * shared[t, i]

//import combined

struct Params {
    width: u32, // in vec4, as the strides of x, routed and shared
    x_stride: u32,
    routed_stride: u32,
    weights_stride: u32, // in f32
    shared_stride: u32, // 0: no shared expert
    gate_offset: u32, // in f32
    gate_stride: u32, // in f32; 0: no gate
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> routed: array<vec4<f32>>; // [tokens * top_k, width]
@group(0) @binding(1) var<storage, read> expert_weights: array<f32>; // [tokens, top_k]
@group(0) @binding(2) var<storage, read> shared_out: array<vec4<f32>>; // [tokens, width]
@group(0) @binding(3) var<storage, read> gate: array<f32>; // [tokens, 1]
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>; // [tokens, width]

@compute @workgroup_size(64)
fn combine(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.width {
        let at = id.y * params.x_stride + id.x;
        x[at] = x[at] + combined(id.y, id.x, share_of(id.y));
    }
}
