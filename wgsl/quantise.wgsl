// Activations in 8 bits, packed for the products of one weight format: see shared/quantise.wgsl.
// A thread makes one word of codes; 8 threads share a group of 32 columns.

//import quantise

struct Params {
    words: u32, // columns / 4
    x_offset: u32,
    x_stride: u32,
    out_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, cols]
@group(0) @binding(1) var<storage, read_write> out: array<u32>; // [tokens, cols / 4 codes, then cols / 32 (scale, scale * sum)]

@compute @workgroup_size(64)
fn quantise(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let j = id.x & 7u;
    let column = min(id.x, params.words - 1u) / 8u * 32u + first_column(j);
    let at = params.x_offset + id.y * params.x_stride + column;
    let v = vec4<f32>(x[at], x[at + interleave], x[at + 2u * interleave], x[at + 3u * interleave]);
    let q = quantise_group(local, v);
    if id.x >= params.words {
        return;
    }
    let row = id.y * params.out_stride;
    out[row + id.x] = q.word;
    if j == 0u {
        out[row + params.words + id.x / 4u] = bitcast<u32>(q.scale);
        out[row + params.words + id.x / 4u + 1u] = bitcast<u32>(q.sum);
    }
}
