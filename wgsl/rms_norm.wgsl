// out[t, i] = x[t, i] / sqrt(mean(x[t]^2) + eps) * weight[i], one workgroup per row; in 8 bits too where `pack` is 1.

//import pack_row
//import sum_over_threads

struct Params {
    width: u32, // all in vec4
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
    eps: f32,
    packed_stride: u32, // in words
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [tokens, width]
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>; // [width]
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>; // [tokens, width]

@group(0) @binding(3) var<storage, read_write> packed: array<u32>; // [tokens, words]: see shared/quantise.wgsl

@compute @workgroup_size(threads)
fn rms_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let from_row = params.x_offset + group.x * params.x_stride;
    var squares = 0.0;
    for (var i = local; i < params.width; i += threads) {
        let v = x[from_row + i];
        squares += dot(v, v);
    }
    let scale = 1.0 / sqrt(sum_over_threads(local, squares) / f32(params.width * 4u) + params.eps);
    let to_row = params.out_offset + group.x * params.out_stride;
    for (var i = local; i < params.width; i += threads) {
        out[to_row + i] = x[from_row + i] * scale * weight[i];
    }
    if pack == 1u {
        pack_row(local, params.width, to_row, group.x * params.packed_stride);
    }
}
