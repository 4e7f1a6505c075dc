// Gate and up projection of the routed experts with SwiGLU, one (token, expert) pair per workgroup layer.
// out[p, i] = silu(gate[i] . x[t]) * (up[i] . x[t]), products scaled where `x` is yet to be
// A workgroup takes 32 hidden values, so that it can quantise them (see shared/quantise.wgsl) when the down projection
// wants that: then `packed` is 1. A team shares `sums` rows, in turn of gate and of up.

//import place
//import prepare
//import quantise
//import squares
//import team
//import unit

struct Params {
    rows: u32, // of gate: the expert's width
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

override packed: u32 = 0u;

// binding 0 is `x`, of the activations
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [slots, slot_words] of a slab
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [pairs, intermediate] as f32 or packed
@group(0) @binding(3) var<storage, read> pairs: array<vec4<u32>>; // (token, row of the pair, slot in the slab, slab)
@group(0) @binding(4) var<storage, read> squares: array<f32>; // of `x`: see shared/squares.wgsl

var<workgroup> hidden: array<f32, 32>;

@compute @workgroup_size(threads)
fn expert_gate_up(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let pair = pairs[params.first_pair + group.z];
    if pair.w != params.slab {
        return;
    }
    let first = (group.y * params.grid_x + group.x) * 32u;
    if first >= params.rows {
        return;
    }
    prepare(local);
    let gate = first + local / lanes * (sums / 2u);
    let up = params.rows + gate;
    let slot = pair.z * params.slot_words;
    let matrix = Place(slot + params.stream_0, slot + params.stream_1, slot + params.stream_2);
    let start = pair.x * params.x_stride;
    var a = array<f32, 8>();
    for (var unit = local % lanes; unit < params.blocks / unit_blocks; unit += lanes) {
        let v = load_unit(start, unit);
        a[0] += dot_unit(matrix, gate, unit, v);
        a[1] += dot_unit(matrix, up, unit, v);
        if sums > 2u {
            a[2] += dot_unit(matrix, gate + 1u, unit, v);
            a[3] += dot_unit(matrix, up + 1u, unit, v);
        }
        if sums > 4u {
            a[4] += dot_unit(matrix, gate + 2u, unit, v);
            a[5] += dot_unit(matrix, up + 2u, unit, v);
            a[6] += dot_unit(matrix, gate + 3u, unit, v);
            a[7] += dot_unit(matrix, up + 3u, unit, v);
        }
    }
    keep_squares(local, threads);
    keep_all(local, a);
    workgroupBarrier();
    let row = pair.y * params.out_stride;
    if local < 32u {
        let i = 2u * local % sums;
        let team = 2u * local / sums;
        let g = scaled(total(i, team));
        let h = g / (1.0 + exp(-g)) * scaled(total(i + 1u, team));
        if packed == 0u {
            out[row + first + local] = bitcast<u32>(h);
        } else {
            hidden[local] = h;
        }
    }
    if packed == 1u {
        workgroupBarrier();
        let j = local & 7u;
        let at = first_column(j);
        let v = vec4<f32>(hidden[at], hidden[at + interleave], hidden[at + 2u * interleave], hidden[at + 3u * interleave]);
        let q = quantise_group(local, v);
        if local < 8u {
            out[row + first / 4u + j] = q.word;
        }
        if local == 0u {
            let place = row + params.rows / 4u + first / 16u;
            out[place] = bitcast<u32>(q.scale);
            out[place + 1u] = bitcast<u32>(q.sum);
        }
    }
}
