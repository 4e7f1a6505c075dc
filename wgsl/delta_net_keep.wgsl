// Last stage of the delta rule over a prompt: the convolution's last inputs, for the next step. A workgroup has one value
// head. After the first stage: that reads what the last step left.

//import keep_inputs

struct Params {
    tokens: u32, // of the step, up to the end of this part
    key_heads: u32,
    x_stride: u32,
    u_offset: u32,
    conv_stride: u32,
}
var<immediate> params: Params;

override taps: u32 = 4u;
override key_dim: u32 = 128u;
override value_dim: u32 = 128u;
override side_by_side: u32 = 1u; // value heads in a row that share a key head

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, u | z | b | a], in any order
@group(0) @binding(1) var<storage, read_write> conv: array<f32>; // [value_heads * (taps - 1), q | k | v of the head]

@compute @workgroup_size(128)
fn delta_net_keep(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    keep_inputs(group.x, local, 128u);
}
