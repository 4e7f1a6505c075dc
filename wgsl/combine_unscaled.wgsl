// Adds the routed experts, weighted, and the shared expert, gated or as it is, to the residual stream of one token, and takes
// the first half of its norm. 64 vectors, eight groups of 32 columns, per workgroup; combine_norm.wgsl gives the same x.
// x[i] += sum_k weights[k] * routed[k, i] + sigmoid(gate) * shared[i]
// normed[i] = x[i] * norm[i], in 8 bits too where `pack` is 1
// squares[g] = sum of x[i]^2 over the 32 columns of group g: see shared/squares.wgsl

//import combined
//import quantise

struct Params {
    width: u32, // in vec4, as the strides of routed and shared
    routed_stride: u32,
    weights_stride: u32, // in f32
    shared_stride: u32, // 0: no shared expert
    gate_offset: u32, // in f32
    gate_stride: u32, // in f32; 0: no gate
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> routed: array<vec4<f32>>; // [top_k, width]
@group(0) @binding(1) var<storage, read> expert_weights: array<f32>; // [top_k]
@group(0) @binding(2) var<storage, read> shared_out: array<vec4<f32>>; // [width]
@group(0) @binding(3) var<storage, read> gate: array<f32>; // [1]
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>; // [width]
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>; // [width]
@group(0) @binding(6) var<storage, read_write> normed: array<vec4<f32>>; // [width]
@group(0) @binding(7) var<storage, read_write> squares: array<f32>; // [width / 8]
@group(0) @binding(8) var<storage, read_write> packed: array<u32>; // [words]: see shared/quantise.wgsl

override pack: u32 = 0u;

var<workgroup> weighed: array<vec4<f32>, 64>;
var<workgroup> square: array<f32, 64>;

@compute @workgroup_size(64)
fn combine_unscaled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group.x * 64u + local;
    var v = vec4<f32>();
    var of_norm = vec4<f32>();
    if i < params.width {
        v = x[i] + combined(0u, i, share_of(0u));
        of_norm = v * norm[i];
        x[i] = v;
        normed[i] = of_norm;
    }
    weighed[local] = of_norm;
    square[local] = dot(v, v);
    workgroupBarrier();
    let first = local & ~7u;
    if i < params.width && local == first {
        squares[i / 8u] = ((square[first] + square[first + 1u]) + (square[first + 2u] + square[first + 3u]))
            + ((square[first + 4u] + square[first + 5u]) + (square[first + 6u] + square[first + 7u]));
    }
    if pack == 1u {
        let c = 4u * first + first_column(local & 7u);
        let q = quantise_group(local, vec4<f32>(
            column(c), column(c + interleave), column(c + 2u * interleave), column(c + 3u * interleave),
        ));
        if i < params.width {
            packed[i] = q.word;
            if local == first {
                packed[params.width + i / 4u] = bitcast<u32>(q.scale);
                packed[params.width + i / 4u + 1u] = bitcast<u32>(q.sum);
            }
        }
    }
}

fn column(c: u32) -> f32 {
    return weighed[c / 4u][c % 4u];
}
