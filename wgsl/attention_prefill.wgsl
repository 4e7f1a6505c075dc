// Causal attention over a prompt, by online softmax over runs of 64 positions. A workgroup has one KV head, 32 rows (the
// queries that share the head, those of a token side by side) and one split of the KV cache: a key or value that it reads
// serves 32 queries. First a thread has 4 rows x 4 positions and half of the elements of a head; then 8 rows x 4 elements.
// Leaves (max, sum of exponentials, unnormalised output) of each split for attention_merge.wgsl.
// Splits and runs begin at fixed positions and a row is added up in their order, whichever rows are with it: positions
// that it does not see weigh exactly 0, so its bits do not depend on how the prompt was cut.

//import keys
//import prefill_rows
//import ready
//import values

override dim: u32 = 128u; // of a head, a multiple of 4, at most 256
override split: u32 = 1024u;
override dim4: u32 = dim / 4u;

@group(0) @binding(0) var<storage, read> keys: array<KeyCell>; // [positions, kv_heads, key_cells]
@group(0) @binding(1) var<storage, read> values: array<ValueCell>; // [positions, kv_heads, value_cells]
@group(0) @binding(2) var<storage, read_write> scratch: array<vec4<f32>>; // queries [kv_heads, tiles, dim, 32 rows], then [tokens, heads, splits, (max, sum, 0, 0) and dim]

const lowest: f32 = -3.0e38;

var<workgroup> weights: array<vec4<f32>, 512>; // [64 positions, 32 rows]
var<workgroup> tops: array<vec4<f32>, 128>; // [16, 32 rows], of 4 positions
var<workgroup> sums: array<vec4<f32>, 128>; // [16, 32 rows], of 4 positions
var<workgroup> shrinks: array<vec4<f32>, 8>; // [32 rows]

// Four elements of 8 rows.
struct Rows {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
    e: vec4<f32>,
    f: vec4<f32>,
    g: vec4<f32>,
    h: vec4<f32>,
}

// Scores of four rows: adds four elements of a key, each times that of the queries.
fn add_scores(k: vec4<f32>, q0: vec4<f32>, q1: vec4<f32>, q2: vec4<f32>, q3: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return fma(k.wwww, q3, fma(k.zzzz, q2, fma(k.yyyy, q1, fma(k.xxxx, q0, sum))));
}

// Adds four elements of the value at position `j` of the run, times the weights of 8 rows from `row4`.
fn add_value(sum: Rows, j: u32, row4: u32, v: vec4<f32>) -> Rows {
    let low = weights[8u * j + row4];
    let high = weights[8u * j + row4 + 1u];
    return Rows(
        fma(low.xxxx, v, sum.a), fma(low.yyyy, v, sum.b), fma(low.zzzz, v, sum.c), fma(low.wwww, v, sum.d),
        fma(high.xxxx, v, sum.e), fma(high.yyyy, v, sum.f), fma(high.zzzz, v, sum.g), fma(high.wwww, v, sum.h),
    );
}

fn shrunk(sum: Rows, row4: u32) -> Rows {
    let low = shrinks[row4];
    let high = shrinks[row4 + 1u];
    return Rows(
        sum.a * low.x, sum.b * low.y, sum.c * low.z, sum.d * low.w,
        sum.e * high.x, sum.f * high.y, sum.g * high.z, sum.h * high.w,
    );
}

@compute @workgroup_size(256)
fn attention_prefill(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let kv = group.z;
    prepare_reading(local);
    let first = group.x * 32u;
    let split_row = params.first_split_row + group.y * split; // in the window
    let last = min(first + 31u, params.tokens * (heads / kv_heads) - 1u);
    let to_row = min(split_row + split, seen_by(last));
    // whole runs that no row sees are left out
    let from_row = max(split_row, seen_from(first) / 64u * 64u);
    // of the scores: rows 4 row4 to 4 row4 + 3, positions place + 16 n
    let half = local / 128u;
    let row4 = local % 8u;
    let place = local % 128u / 8u;
    let seen = vec4<u32>(
        seen_by(first + 4u * row4), seen_by(first + 4u * row4 + 1u),
        seen_by(first + 4u * row4 + 2u), seen_by(first + 4u * row4 + 3u),
    );
    let unseen = vec4<u32>(
        seen_from(first + 4u * row4), seen_from(first + 4u * row4 + 1u),
        seen_from(first + 4u * row4 + 2u), seen_from(first + 4u * row4 + 3u),
    );
    let queries = (kv * params.tiles + group.x) * dim * 8u + row4;
    let from_element = select(0u, (dim4 + 1u) / 2u, half == 1u);
    let to_element = select((dim4 + 1u) / 2u, dim4, half == 1u);
    // of the outputs: elements 4 column to 4 column + 3 of rows 8 eight to 8 eight + 7
    let column = local % 64u;
    let eight = local / 64u;
    var top = vec4<f32>(lowest);
    var total = vec4<f32>();
    var sum = Rows();
    for (var start = from_row; start < to_row; start += 64u) {
        // what lies past the last row that is seen may be anything: the last is read in its place
        let at = min(vec4<u32>(start + place) + vec4<u32>(0u, 16u, 32u, 48u), vec4<u32>(to_row - 1u)) * kv_heads + kv;
        let k = at * key_cells;
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var d = from_element; d < to_element; d++) {
            let q0 = scratch[queries + 32u * d];
            let q1 = scratch[queries + 32u * d + 8u];
            let q2 = scratch[queries + 32u * d + 16u];
            let q3 = scratch[queries + 32u * d + 24u];
            s0 = add_scores(key_quad(k.x, d), q0, q1, q2, q3, s0);
            s1 = add_scores(key_quad(k.y, d), q0, q1, q2, q3, s1);
            s2 = add_scores(key_quad(k.z, d), q0, q1, q2, q3, s2);
            s3 = add_scores(key_quad(k.w, d), q0, q1, q2, q3, s3);
        }
        let cell = 8u * place + row4;
        if half == 1u {
            weights[cell] = s0;
            weights[cell + 128u] = s1;
            weights[cell + 256u] = s2;
            weights[cell + 384u] = s3;
        }
        workgroupBarrier();
        let p = vec4<u32>(start + place);
        if half == 0u {
            s0 = select(vec4<f32>(lowest), s0 + weights[cell], is_seen(p, unseen, seen));
            s1 = select(vec4<f32>(lowest), s1 + weights[cell + 128u], is_seen(p + 16u, unseen, seen));
            s2 = select(vec4<f32>(lowest), s2 + weights[cell + 256u], is_seen(p + 32u, unseen, seen));
            s3 = select(vec4<f32>(lowest), s3 + weights[cell + 384u], is_seen(p + 48u, unseen, seen));
            tops[cell] = max(max(s0, s1), max(s2, s3));
        }
        workgroupBarrier();
        if half == 0u {
            var new_top = top;
            for (var n = 0u; n < 16u; n++) {
                new_top = max(new_top, tops[8u * n + row4]);
            }
            let w0 = select(vec4<f32>(), exp(s0 - new_top), is_seen(p, unseen, seen));
            let w1 = select(vec4<f32>(), exp(s1 - new_top), is_seen(p + 16u, unseen, seen));
            let w2 = select(vec4<f32>(), exp(s2 - new_top), is_seen(p + 32u, unseen, seen));
            let w3 = select(vec4<f32>(), exp(s3 - new_top), is_seen(p + 48u, unseen, seen));
            weights[cell] = w0;
            weights[cell + 128u] = w1;
            weights[cell + 256u] = w2;
            weights[cell + 384u] = w3;
            sums[cell] = (w0 + w1) + (w2 + w3);
            // exactly 1 for rows that this run does not change
            let shrink = select(exp(top - new_top), vec4<f32>(1.0), top == new_top);
            top = new_top;
            total *= shrink;
            if place == 0u {
                shrinks[row4] = shrink;
            }
        }
        workgroupBarrier();
        if local < 8u {
            for (var n = 0u; n < 16u; n++) {
                total += sums[8u * n + row4];
            }
        }
        sum = shrunk(sum, 2u * eight);
        if column < dim4 {
            // weights past the last position are 0
            for (var j = 0u; j < min(64u, to_row - start); j += 4u) {
                let at = min(vec4<u32>(start + j) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(to_row - 1u)) * kv_heads + kv;
                let r = at * value_cells;
                let v0 = value_quad(r.x, column);
                let v1 = value_quad(r.y, column);
                let v2 = value_quad(r.z, column);
                let v3 = value_quad(r.w, column);
                sum = add_value(sum, j, 2u * eight, v0);
                sum = add_value(sum, j + 1u, 2u * eight, v1);
                sum = add_value(sum, j + 2u, 2u * eight, v2);
                sum = add_value(sum, j + 3u, 2u * eight, v3);
            }
        }
        // the next run's scores overwrite the weights
        workgroupBarrier();
    }
    if local < 8u {
        for (var n = 0u; n < 4u; n++) {
            leave(kv, first + 4u * row4 + n, group.y, 0u, vec4<f32>(top[n], total[n], 0.0, 0.0));
        }
    }
    if column < dim4 {
        let row = first + 8u * eight;
        leave(kv, row, group.y, 1u + column, sum.a);
        leave(kv, row + 1u, group.y, 1u + column, sum.b);
        leave(kv, row + 2u, group.y, 1u + column, sum.c);
        leave(kv, row + 3u, group.y, 1u + column, sum.d);
        leave(kv, row + 4u, group.y, 1u + column, sum.e);
        leave(kv, row + 5u, group.y, 1u + column, sum.f);
        leave(kv, row + 6u, group.y, 1u + column, sum.g);
        leave(kv, row + 7u, group.y, 1u + column, sum.h);
    }
}
