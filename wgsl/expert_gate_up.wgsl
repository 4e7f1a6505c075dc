// Gate and up projection of the routed experts with SwiGLU, one (token, expert) pair per workgroup layer.
// out[p, i] = silu(gate[i] . x[t]) * (up[i] . x[t])
// `lanes` threads share two gate rows and the two up rows that go with them.

struct Params {
    rows: u32, // of gate: the expert's width
    blocks: u32, // columns / 32
    grid_x: u32,
    first_pair: u32,
    slab: u32, // the one that is bound
    x_stride: u32, // in vec4
    out_stride: u32,
    slot_words: u32,
    codes: u32, // in the slot
    scales: u32,
    biases: u32,
}
var<immediate> params: Params;

override lanes: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [tokens, hidden]
@group(0) @binding(1) var<storage, read> weights: array<u32>; // [slots, slot_words] of a slab
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [pairs, intermediate]
@group(0) @binding(3) var<storage, read> pairs: array<vec4<u32>>; // (token, row of the pair, slot in the slab, slab)

var<workgroup> partial: array<vec4<f32>, 64>;

fn load(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = row * params.x_stride + block * 8u;
    return array<vec4<f32>, 8>(x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u]);
}

@compute @workgroup_size(64)
fn expert_gate_up(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let pair = pairs[params.first_pair + group.z];
    if pair.w != params.slab {
        return;
    }
    let lane = local % lanes;
    let row = ((group.y * params.grid_x + group.x) * (64u / lanes) + local / lanes) * 2u;
    let last = params.rows - 1u;
    let slot = pair.z * params.slot_words;
    let matrix = Place(slot + params.codes, slot + params.scales, slot + params.biases);
    let r0 = min(row, last);
    let r1 = min(row + 1u, last);
    let r2 = params.rows + r0;
    let r3 = params.rows + r1;
    var a0 = vec4<f32>();
    var a1 = vec4<f32>();
    var a2 = vec4<f32>();
    var a3 = vec4<f32>();
    for (var block = lane; block < params.blocks; block += lanes) {
        let v = load(pair.x, block);
        a0 = dot_block(block_of(matrix, r0, block, params.blocks), v, a0);
        a1 = dot_block(block_of(matrix, r1, block, params.blocks), v, a1);
        a2 = dot_block(block_of(matrix, r2, block, params.blocks), v, a2);
        a3 = dot_block(block_of(matrix, r3, block, params.blocks), v, a3);
    }
    partial[local] = vec4<f32>(horizontal(a0), horizontal(a1), horizontal(a2), horizontal(a3));
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[local] += partial[local + half];
        }
    }
    workgroupBarrier();
    if lane < 2u && row + lane < params.rows {
        let gate = partial[local - lane][lane];
        let up = partial[local - lane][lane + 2u];
        out[pair.y * params.out_stride + row + lane] = gate / (1.0 + exp(-gate)) * up;
    }
}
