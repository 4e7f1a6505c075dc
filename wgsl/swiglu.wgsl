// out[t, i] = silu(x[t, i]) * x[t, width + i]: gate and up lie side by side.

struct Params {
    width: u32,
    x_offset: u32,
    x_stride: u32,
    out_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, 2 * width]
@group(0) @binding(1) var<storage, read_write> out: array<f32>; // [tokens, width]

@compute @workgroup_size(64)
fn swiglu(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width {
        return;
    }
    let at = params.x_offset + id.y * params.x_stride + id.x;
    let gate = x[at];
    out[id.y * params.out_stride + id.x] = gate / (1.0 + exp(-gate)) * x[at + params.width];
}
