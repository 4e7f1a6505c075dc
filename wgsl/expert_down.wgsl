// Down projection of the routed experts, one (token, expert) pair per workgroup layer. With `of_tokens` gate or up by
// itself, where these have different formats: `expert_swiglu` follows.
// out[p, r] = down[r] . x[p], or out[p, out_column + r] = gate[r] . x[t]
// A team shares `sums` rows, one a sum.

//import place
//import prepare
//import rows
//import team

struct Params {
    rows: u32, // hidden
    blocks: u32, // columns / 32
    grid_x: u32,
    first_pair: u32,
    slab: u32, // the one that is bound
    x_stride: u32, // in 16 bytes
    out_stride: u32,
    slot_words: u32,
    stream_0: u32, // in the slot: see shared/place.wgsl
    stream_1: u32,
    stream_2: u32,
}
var<immediate> params: Params;

override of_tokens: u32 = 0u; // 1: `x` has a row for each token, not for each pair
override out_column: u32 = 0u; // of row 0

// binding 0 is `x`, of the activations
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [slots, slot_words] of a slab
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [pairs, hidden]
@group(0) @binding(3) var<storage, read> pairs: array<vec4<u32>>; // (token, row of the pair, slot in the slab, slab)

@compute @workgroup_size(threads)
fn expert_down(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let pair = pairs[params.first_pair + group.z];
    if pair.w != params.slab {
        return;
    }
    prepare(local);
    let first = (group.y * params.grid_x + group.x) * (threads / lanes) * sums;
    let row = first + local / lanes * sums;
    let slot = pair.z * params.slot_words;
    let matrix = Place(slot + params.stream_0, slot + params.stream_1, slot + params.stream_2);
    let start = select(pair.y, pair.x, of_tokens == 1u) * params.x_stride;
    keep_all(local, times_rows(matrix, row, params.rows - 1u, start, local % lanes));
    workgroupBarrier();
    for (var i = local; i < threads / lanes * sums && first + i < params.rows; i += threads) {
        out[pair.y * params.out_stride + out_column + first + i] = total(i % sums, i / sums);
    }
}
