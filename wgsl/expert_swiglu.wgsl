// SwiGLU of the routed experts whose gate and up are products of their own; 64 elements, or in 8 bits words, of a
// (token, expert) pair per workgroup.
// hidden[p, i] = silu(gate_up[p, i]) * gate_up[p, width + i], in 8 bits where `pack` is 1

//import gated

struct Params {
    width: u32, // of hidden
    gate_up_offset: u32,
    gate_up_stride: u32,
    hidden_stride: u32,
    first_pair: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> gate_up: array<f32>; // [pairs, 2 * width]
@group(0) @binding(1) var<storage, read_write> hidden: array<u32>; // [pairs, width], bits of f32, or words: see shared/quantise.wgsl
@group(0) @binding(2) var<storage, read> pairs: array<vec4<u32>>; // (token, row of the pair, slot in the slab, slab)

@compute @workgroup_size(64)
fn expert_swiglu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    write_gated(local, pairs[params.first_pair + group.y].y, group.x * 64u + local);
}
