// Fourth stage of the delta rule over a prompt: gated RMS norm of each head. A workgroup has one value head and one token.
// out = y / sqrt(mean(y^2) + eps) * norm * silu(z), in 8 bits where `pack` is 1

//import delta_net_scratch
//import pack_head
//import sigmoid

struct Params {
    first: u32, // token of the step that the run begins with
    rows: u32, // of the run
    key_heads: u32,
    value_heads: u32,
    x_stride: u32,
    z_offset: u32,
    out_stride: u32,
    eps: f32,
    dim: f32, // value_dim
}
var<immediate> params: Params;

override key_dim: u32 = 128u;
override value_dim: u32 = 128u;
override value4: u32 = 32u;
override pack: u32 = 0u;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, u | z | b | a], in any order
@group(0) @binding(1) var<storage, read> norm: array<f32>; // [value_dim]
@group(0) @binding(2) var<storage, read> scratch: array<f32>; // see shared/delta_net_scratch.wgsl
@group(0) @binding(3) var<storage, read_write> out: array<u32>; // [tokens, value_heads * value_dim], bits of f32, or words: see shared/quantise.wgsl

var<workgroup> y: array<f32, 256>; // of one head
var<workgroup> squares: array<f32, 64>;
var<workgroup> square_sums: array<f32, 8>;

@compute @workgroup_size(64)
fn delta_net_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let token = params.first + group.y;
    let start = (values_at(head) + group.y * value4) * 4u;
    var sum = 0.0;
    for (var i = local; i < value_dim; i += 64u) {
        let v = scratch[start + i];
        y[i] = v;
        sum = fma(v, v, sum);
    }
    squares[local] = sum;
    workgroupBarrier();
    if local < 8u {
        sum = 0.0;
        for (var i = local; i < 64u; i += 8u) {
            sum += squares[i];
        }
        square_sums[local] = sum;
    }
    workgroupBarrier();
    // without a loop: drivers that unroll one move the eps that follows to its beginning
    sum = ((square_sums[0] + square_sums[1]) + (square_sums[2] + square_sums[3]))
        + ((square_sums[4] + square_sums[5]) + (square_sums[6] + square_sums[7]));
    let scale = 1.0 / sqrt(sum / params.dim + params.eps);
    let z = token * params.x_stride + params.z_offset + head * value_dim;
    for (var i = local; i < value_dim; i += 64u) {
        let gated = y[i] * scale * norm[i] * silu(x[z + i]);
        if pack == 0u {
            out[token * params.out_stride + head * value_dim + i] = bitcast<u32>(gated);
        } else {
            y[i] = gated;
        }
    }
    if pack == 1u {
        pack_head(local, value_dim, head, params.value_heads, token * params.out_stride);
    }
}
