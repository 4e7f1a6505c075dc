// out[t, h, i] = x[t, h, i] / sqrt(mean(x[t, h]^2) + eps) * weight[i] * silu(gate[t, h, i]), one workgroup per head.

struct Params {
    dim: u32,
    heads: u32,
    x_stride: u32,
    gate_offset: u32,
    gate_stride: u32,
    out_stride: u32,
    eps: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, heads * dim]
@group(0) @binding(1) var<storage, read> gate: array<f32>; // [tokens, heads * dim]
@group(0) @binding(2) var<storage, read> weight: array<f32>; // [dim]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [tokens, heads * dim]

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn gated_rms_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x * params.dim;
    let from_row = group.y * params.x_stride + head;
    var sum = 0.0;
    for (var i = local; i < params.dim; i += 64u) {
        let v = x[from_row + i];
        sum = fma(v, v, sum);
    }
    partial[local] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            partial[local] += partial[local + half];
        }
    }
    workgroupBarrier();
    let scale = 1.0 / sqrt(partial[0] / f32(params.dim) + params.eps);
    let gate_row = params.gate_offset + group.y * params.gate_stride + head;
    let to_row = group.y * params.out_stride + head;
    for (var i = local; i < params.dim; i += 64u) {
        let z = gate[gate_row + i];
        out[to_row + i] = x[from_row + i] * scale * weight[i] * (z / (1.0 + exp(-z)));
    }
}
