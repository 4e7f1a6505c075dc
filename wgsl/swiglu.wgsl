// SwiGLU of gate and up that lie side by side; 64 elements, or in 8 bits words, of a token per workgroup.
// hidden[t, i] = silu(gate_up[t, i]) * gate_up[t, width + i], in 8 bits where `pack` is 1

//import gated

struct Params {
    width: u32, // of hidden
    gate_up_offset: u32,
    gate_up_stride: u32,
    hidden_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> gate_up: array<f32>; // [tokens, 2 * width]
@group(0) @binding(1) var<storage, read_write> hidden: array<u32>; // [tokens, width], bits of f32, or words: see shared/quantise.wgsl

@compute @workgroup_size(64)
fn swiglu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    write_gated(local, group.y, group.x * 64u + local);
}
