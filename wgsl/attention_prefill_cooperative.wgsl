// Causal attention over a prompt by the matrix units of a device, as attention_prefill.wgsl: the same tiles, splits and
// leaves. Queries, keys, values and weights are multiplied in f16 and added up in f32.
// A workgroup goes through its split by runs of 32 positions. Scores are S^T = K Q^T, one tile of 16 x 16 a subgroup, or of
// half a head where there are 16 rows, and outputs O^T += V^T W^T, a quarter of a head a subgroup. Keys and values of a run are
// on their way while the run before is computed. Weights are exp(score - reference): a reference moves only where
// a score is more than 8 above it, so that outputs are rarely scaled; they go through `sums` for it, as a unit's numbers
// have no place that WGSL knows. Rows have references of their own: bits of one do not depend on the others, as long as f16
// holds all values of the cache (65,504 at most): an infinite one is no number to rows that do not see it either.
// Subgroups are 32 threads in a row: only devices that are known to have such get this kernel.

enable f16;
enable wgpu_cooperative_matrix;

//import keys
//import prefill_rows
//import ready
//import values

override dim: u32 = 128u; // of a head, a multiple of 64, at most 256
override split: u32 = 1024u;
override rows: u32 = 32u; // of which some may be filled: 16 for the queries of one token
override dim4: u32 = dim / 4u;
override parts: u32 = dim / 64u; // of 16 elements, of a subgroup's quarter
override stride: u32 = dim4 + 2u; // quads: 8 rows in a row are in banks of their own
override halves: u32 = 32u * stride;
override query_cells: u32 = rows * stride;
override pieces: u32 = 32u / rows; // of a head, whose scores are added: one, or two
override score_quads: u32 = dim4 / pieces; // of a row, that a subgroup multiplies
override sharers: u32 = 128u / rows; // threads that have a row of weights together
override own_quads: u32 = rows / 16u; // of weights, that one of them has: one, or two
override brought: u32 = dim4 / 4u; // quads of 32 positions that a thread brings

@group(0) @binding(0) var<storage, read> keys: array<KeyCell>; // [positions, kv_heads, key_cells]
@group(0) @binding(1) var<storage, read> values: array<ValueCell>; // [positions, kv_heads, value_cells]
@group(0) @binding(2) var<storage, read_write> scratch: array<vec4<f32>>; // queries [kv_heads, tiles, dim, 32 rows], then [tokens, heads, splits, (reference, sum, 0, 0) and dim]

const lowest: f32 = -3.0e38;
const room: f32 = 8.0; // exp(8) is far from what f16 holds, and what is 2,981 times as small is still exact to 1 in 2,048

var<workgroup> query_halves: array<vec4<f16>, query_cells>; // [rows, dim]
var<workgroup> run_halves: array<vec4<f16>, halves>; // [32 positions, dim]: keys, then values
var<workgroup> weight_halves: array<vec4<f16>, 320>; // [32 rows, 32 positions and 8]
var<workgroup> sums: array<vec4<f32>, 288>; // scores [pieces, rows, 32 positions and 4]; outputs [subgroup, 16 rows, 16]
var<workgroup> shrinks: array<f32, 32>; // of the rows
var<workgroup> moved: vec4<u32>; // whether one of them is not 1, in this run and the next one in turn

// Quads of keys that a thread brings, side by side with its neighbours'. Behind the last row that is seen lies anything:
// the last is read in its place.
fn bring_keys(start: u32, end: u32, kv: u32, local: u32) -> array<vec4<f16>, 16> {
    var quads: array<vec4<f16>, 16>;
    for (var k = 0u; k < brought; k++) {
        let n = k * 128u + local;
        let head = (min(start + n / dim4, end - 1u) * kv_heads + kv) * key_cells;
        quads[k] = vec4<f16>(key_quad(head, n % dim4));
    }
    return quads;
}

fn bring_values(start: u32, end: u32, kv: u32, local: u32) -> array<vec4<f16>, 16> {
    var quads: array<vec4<f16>, 16>;
    for (var k = 0u; k < brought; k++) {
        let n = k * 128u + local;
        let head = (min(start + n / dim4, end - 1u) * kv_heads + kv) * value_cells;
        quads[k] = vec4<f16>(value_quad(head, n % dim4));
    }
    return quads;
}

fn keep_run(quads: array<vec4<f16>, 16>, local: u32) {
    for (var k = 0u; k < brought; k++) {
        let n = k * 128u + local;
        run_halves[n / dim4 * stride + n % dim4] = quads[k];
    }
}

// Queries lie by elements, four rows side by side; units want them by rows.
fn keep_queries(kv: u32, tile: u32, local: u32) {
    let queries = (kv * params.tiles + tile) * dim * 8u;
    for (var n = local; n < 8u * dim4; n += 128u) {
        if n % 8u >= rows / 4u {
            continue;
        }
        let at = queries + n / 8u * 32u + n % 8u;
        let a = scratch[at];
        let b = scratch[at + 8u];
        let c = scratch[at + 16u];
        let d = scratch[at + 24u];
        let to = n % 8u * 4u * stride + n / 8u;
        query_halves[to] = vec4<f16>(vec4<f32>(a.x, b.x, c.x, d.x));
        query_halves[to + stride] = vec4<f16>(vec4<f32>(a.y, b.y, c.y, d.y));
        query_halves[to + 2u * stride] = vec4<f16>(vec4<f32>(a.z, b.z, c.z, d.z));
        query_halves[to + 3u * stride] = vec4<f16>(vec4<f32>(a.w, b.w, c.w, d.w));
    }
}

// Four scores of a row: those from position `4 * i` of the run on.
fn score_quad(row: u32, i: u32) -> vec4<f32> {
    let scores = sums[row * 9u + i];
    if pieces == 1u {
        return scores;
    }
    return scores + sums[144u + row * 9u + i];
}

// Scales outputs that a subgroup keeps, of 16 elements of rows from `row` on.
fn shrunk(o: coop_mat16x16<f32, C>, row: u32, local: u32) -> coop_mat16x16<f32, C> {
    let its = local / 32u * 64u;
    coopStore(o, &sums[its], 4u);
    workgroupBarrier();
    for (var n = local % 32u; n < 64u; n += 32u) {
        sums[its + n] *= shrinks[row + n / 4u];
    }
    workgroupBarrier();
    let scaled = coopLoad<coop_mat16x16<f32, C>>(&sums[its], 4u);
    workgroupBarrier();
    return scaled;
}

// Writes outputs that subgroups keep, of 16 elements from `element` on of rows from `row` on.
fn leave_outputs(o: coop_mat16x16<f32, C>, kv: u32, row: u32, split_index: u32, element: u32, local: u32) {
    let its = local / 32u * 64u;
    coopStore(o, &sums[its], 4u);
    workgroupBarrier();
    for (var n = local % 32u; n < 64u; n += 32u) {
        leave(kv, row + n / 4u, split_index, 1u + element / 4u + n % 4u, sums[its + n]);
    }
    workgroupBarrier();
}

@compute @workgroup_size(128)
fn attention_prefill_cooperative(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let kv = group.z;
    prepare_reading(local);
    let first = group.x * 32u;
    let split_row = params.first_split_row + group.y * split; // in the window
    let last = min(first + 31u, params.tokens * (heads / kv_heads) - 1u);
    let to_row = min(split_row + split, seen_by(last));
    // whole runs that no row sees are left out
    let from_row = max(split_row, seen_from(first) / 32u * 32u);
    let subgroup = local / 32u;
    // of the scores: 16 positions, and 16 rows, or a piece of the head
    let its_positions = 16u * (subgroup % 2u);
    let its_rows = subgroup / 2u * (2u - pieces) * 16u;
    let its_piece = subgroup / 2u * (pieces - 1u) * score_quads;
    let its_scores = subgroup / 2u * 144u + its_positions / 4u;
    // of the outputs: quads of a quarter of a head
    let its_quads = subgroup * parts * 4u;
    // of the weights: a row, and some quads of positions of a run
    let row = local / sharers;
    let own = local % sharers * own_quads;
    // a row that no query has sees nothing
    let is_filled = first + row < params.tokens * (heads / kv_heads);
    let seen = select(0u, seen_by(first + row), is_filled);
    let unseen = seen_from(first + row);
    var reference = lowest;
    var total = 0.0;
    var o00: coop_mat16x16<f32, C>;
    var o01: coop_mat16x16<f32, C>;
    var o10: coop_mat16x16<f32, C>;
    var o11: coop_mat16x16<f32, C>;
    var o20: coop_mat16x16<f32, C>;
    var o21: coop_mat16x16<f32, C>;
    var o30: coop_mat16x16<f32, C>;
    var o31: coop_mat16x16<f32, C>;
    if local == 0u {
        moved = vec4<u32>();
    }
    keep_queries(kv, group.x, local);
    var next_keys: array<vec4<f16>, 16>;
    var next_values: array<vec4<f16>, 16>;
    if from_row < to_row {
        next_keys = bring_keys(from_row, to_row, kv, local);
        next_values = bring_values(from_row, to_row, kv, local);
    }
    for (var start = from_row; start < to_row; start += 32u) {
        keep_run(next_keys, local);
        workgroupBarrier();
        next_keys = bring_keys(min(start + 32u, to_row - 1u), to_row, kv, local);
        var scores: coop_mat16x16<f32, C>;
        for (var d = its_piece; d < its_piece + score_quads; d += 4u) {
            let a = coopLoadT<coop_mat16x16<f16, A>>(&run_halves[its_positions * stride + d], stride);
            let b = coopLoad<coop_mat16x16<f16, B>>(&query_halves[its_rows * stride + d], stride);
            scores = coopMultiplyAdd(a, b, scores);
        }
        coopStore(scores, &sums[its_scores], 9u);
        workgroupBarrier();
        keep_run(next_values, local);
        next_values = bring_values(min(start + 32u, to_row - 1u), to_row, kv, local);
        let turn = (start - from_row) / 32u % 2u;
        var tops = vec4<f32>(lowest);
        for (var i = 0u; i < 8u; i++) {
            let positions = vec4<u32>(start + 4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
            let is_its = is_seen(positions, vec4<u32>(unseen), vec4<u32>(seen));
            tops = max(tops, select(vec4<f32>(lowest), score_quad(row, i), is_its));
        }
        let top = max(max(tops.x, tops.y), max(tops.z, tops.w));
        let moves = top > reference + room;
        let new_reference = select(reference, top, moves);
        var added = 0.0;
        for (var i = own; i < own + own_quads; i++) {
            let positions = vec4<u32>(start + 4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
            let is_its = is_seen(positions, vec4<u32>(unseen), vec4<u32>(seen));
            let weights = exp(score_quad(row, i) - vec4<f32>(new_reference));
            let quad = vec4<f16>(select(vec4<f32>(), weights, is_its));
            weight_halves[row * 10u + i] = quad;
            let rounded = vec4<f32>(quad);
            added += (rounded.x + rounded.y) + (rounded.z + rounded.w);
        }
        // exactly 1 for rows whose reference stays
        let shrink = select(1.0, exp(reference - new_reference), moves);
        reference = new_reference;
        total = total * shrink + added;
        if own == 0u {
            shrinks[row] = shrink;
        }
        if moves {
            moved[turn] = 1u;
        }
        let any = workgroupUniformLoad(&moved);
        // there is nothing to scale before the first run
        if start > from_row && any[turn] == 1u {
            o00 = shrunk(o00, 0u, local);
            if parts > 1u {
                o10 = shrunk(o10, 0u, local);
            }
            if parts > 2u {
                o20 = shrunk(o20, 0u, local);
            }
            if parts > 3u {
                o30 = shrunk(o30, 0u, local);
            }
            if rows > 16u {
                o01 = shrunk(o01, 16u, local);
                if parts > 1u {
                    o11 = shrunk(o11, 16u, local);
                }
                if parts > 2u {
                    o21 = shrunk(o21, 16u, local);
                }
                if parts > 3u {
                    o31 = shrunk(o31, 16u, local);
                }
            }
        }
        if local == 0u {
            moved[1u - turn] = 0u;
        }
        for (var j = 0u; j < 8u; j += 4u) {
            let at = 4u * j * stride + its_quads;
            let b0 = coopLoad<coop_mat16x16<f16, B>>(&weight_halves[j], 10u);
            let b1 = coopLoad<coop_mat16x16<f16, B>>(&weight_halves[160u + j], 10u);
            let a0 = coopLoad<coop_mat16x16<f16, A>>(&run_halves[at], stride);
            o00 = coopMultiplyAdd(a0, b0, o00);
            if rows > 16u {
                o01 = coopMultiplyAdd(a0, b1, o01);
            }
            if parts > 1u {
                let a1 = coopLoad<coop_mat16x16<f16, A>>(&run_halves[at + 4u], stride);
                o10 = coopMultiplyAdd(a1, b0, o10);
                if rows > 16u {
                    o11 = coopMultiplyAdd(a1, b1, o11);
                }
            }
            if parts > 2u {
                let a2 = coopLoad<coop_mat16x16<f16, A>>(&run_halves[at + 8u], stride);
                o20 = coopMultiplyAdd(a2, b0, o20);
                if rows > 16u {
                    o21 = coopMultiplyAdd(a2, b1, o21);
                }
            }
            if parts > 3u {
                let a3 = coopLoad<coop_mat16x16<f16, A>>(&run_halves[at + 12u], stride);
                o30 = coopMultiplyAdd(a3, b0, o30);
                if rows > 16u {
                    o31 = coopMultiplyAdd(a3, b1, o31);
                }
            }
        }
        // the next run overwrites values, scores and weights
        workgroupBarrier();
    }
    sums[local].x = total;
    workgroupBarrier();
    if own == 0u {
        var all = 0.0;
        for (var i = 0u; i < sharers; i += 4u) {
            all += (sums[local + i].x + sums[local + i + 1u].x) + (sums[local + i + 2u].x + sums[local + i + 3u].x);
        }
        leave(kv, first + row, group.y, 0u, vec4<f32>(reference, all, 0.0, 0.0));
    }
    workgroupBarrier();
    let element = 4u * its_quads;
    leave_outputs(o00, kv, first, group.y, element, local);
    if parts > 1u {
        leave_outputs(o10, kv, first, group.y, element + 16u, local);
    }
    if parts > 2u {
        leave_outputs(o20, kv, first, group.y, element + 32u, local);
    }
    if parts > 3u {
        leave_outputs(o30, kv, first, group.y, element + 48u, local);
    }
    if rows > 16u {
        leave_outputs(o01, kv, first + 16u, group.y, element, local);
        if parts > 1u {
            leave_outputs(o11, kv, first + 16u, group.y, element + 16u, local);
        }
        if parts > 2u {
            leave_outputs(o21, kv, first + 16u, group.y, element + 32u, local);
        }
        if parts > 3u {
            leave_outputs(o31, kv, first + 16u, group.y, element + 48u, local);
        }
    }
}
