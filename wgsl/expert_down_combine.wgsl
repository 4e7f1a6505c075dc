// Down projection of the routed experts of a token, all of them in one slab, and what becomes of it: expert_down.wgsl and
// combine_unscaled.wgsl in one, to the bit. A workgroup takes the 32 rows of a group, so that it can quantise them, of all
// experts, of some at a time. A team shares `sums` rows of an expert, one a sum.
// residual[r] += sum_k weights[k] * down_k[r] . x[k] + sigmoid(gate) * shared[r]
// normed[r] = residual[r] * norm[r], in 8 bits too where `pack` is 1
// squares[g] = sum of residual[r]^2 over the 32 rows of group g: see shared/squares.wgsl

//import pack_group
//import place
//import prepare
//import rows
//import team

struct Params {
    rows: u32,
    blocks: u32, // columns / 32
    x_stride: u32, // in 16 bytes
    shared_stride: u32, // 0: no shared expert
    gate_offset: u32, // in f32
    gate_stride: u32, // 0: no gate
    slot_words: u32,
    stream_0: u32, // in the slot: see shared/place.wgsl
    stream_1: u32,
    stream_2: u32,
}
var<immediate> params: Params;

override top_k: u32 = 8u;
override at_once: u32 = 1u; // experts at a time
override row_teams: u32 = 32u / sums; // of an expert
override routed_quads: u32 = 8u * top_k;

// binding 0 is `x`, of the activations: [top_k, columns]
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [slots, slot_words] of the slab
@group(0) @binding(2) var<storage, read> pairs: array<vec4<u32>>; // (token, row of the pair, slot in the slab, slab)
@group(0) @binding(3) var<storage, read> expert_weights: array<f32>; // [top_k]
@group(0) @binding(4) var<storage, read> shared_out: array<vec4<f32>>; // [rows]
@group(0) @binding(5) var<storage, read> gate: array<f32>; // [1]
@group(0) @binding(6) var<storage, read_write> residual: array<vec4<f32>>; // [rows]
@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>; // [rows]
@group(0) @binding(8) var<storage, read_write> normed: array<vec4<f32>>; // [rows]
@group(0) @binding(9) var<storage, read_write> squares: array<f32>; // [rows / 32]
@group(0) @binding(10) var<storage, read_write> packed: array<u32>; // [words]: see shared/quantise.wgsl

var<workgroup> routed: array<vec4<f32>, routed_quads>; // [top_k, 32 rows]
var<workgroup> square: array<f32, 8>;
var<workgroup> shares: array<f32, top_k>;

@compute @workgroup_size(threads)
fn expert_down_combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = group.x * 32u;
    prepare(local);
    let team = local / lanes;
    // what a thread of four rows combines is on its way while products are
    let quad = first / 4u + local % 8u;
    var before = vec4<f32>();
    var weight = vec4<f32>();
    var shared_rows = vec4<f32>();
    var share = 1.0;
    if local < 8u {
        before = residual[quad];
        weight = norm[quad];
        if params.shared_stride > 0u {
            shared_rows = shared_out[quad];
        }
        if params.gate_stride > 0u {
            share = 1.0 / (1.0 + exp(-gate[params.gate_offset]));
        }
    }
    for (var k = local; k < top_k; k += threads) {
        shares[k] = expert_weights[k];
    }
    for (var k = 0u; k < top_k; k += at_once) {
        let expert = min(k + team / row_teams, top_k - 1u);
        let slot = pairs[expert].z * params.slot_words;
        let matrix = Place(slot + params.stream_0, slot + params.stream_1, slot + params.stream_2);
        let row = first + team % row_teams * sums;
        // totals of the experts before are read
        if k > 0u {
            workgroupBarrier();
        }
        keep_all(local, times_rows(matrix, row, params.rows - 1u, expert * params.x_stride, local % lanes));
        workgroupBarrier();
        for (var i = local; i < 8u * at_once && k + i / 8u < top_k; i += threads) {
            let r = 4u * (i % 8u);
            let of_expert = i / 8u * row_teams;
            routed[8u * k + i] = vec4<f32>(
                total(r % sums, of_expert + r / sums),
                total((r + 1u) % sums, of_expert + (r + 1u) / sums),
                total((r + 2u) % sums, of_expert + (r + 2u) / sums),
                total((r + 3u) % sums, of_expert + (r + 3u) / sums),
            );
        }
    }
    workgroupBarrier();
    if local < 8u {
        var sum = vec4<f32>();
        for (var k = 0u; k < top_k; k++) {
            sum = fma(vec4<f32>(shares[k]), routed[8u * k + local], sum);
        }
        if params.shared_stride > 0u {
            sum = fma(vec4<f32>(share), shared_rows, sum);
        }
        let v = before + sum;
        let of_norm = v * weight;
        residual[quad] = v;
        normed[quad] = of_norm;
        square[local] = dot(v, v);
        of_group[4u * local] = of_norm.x;
        of_group[4u * local + 1u] = of_norm.y;
        of_group[4u * local + 2u] = of_norm.z;
        of_group[4u * local + 3u] = of_norm.w;
    }
    workgroupBarrier();
    if local == 0u {
        squares[first / 32u] = ((square[0] + square[1]) + (square[2] + square[3]))
            + ((square[4] + square[5]) + (square[6] + square[7]));
    }
    if pack == 1u {
        pack_group(local, first / 32u, params.rows);
    }
}
