// Product of a weight matrix with the activations of one token, onto the residual stream, and the first half of its norm.
// out[r] += sum_c W[r, c] * x[c]
// normed[r] = out[r] * norm[r], in 8 bits too where `pack` is 1
// squares[g] = sum of out[r]^2 over the 32 rows of group g: see shared/squares.wgsl
// A workgroup takes the 32 rows of a group, so that it can quantise them. A team shares `sums` rows, one a sum.

//import pack_group
//import place
//import prepare
//import rows
//import team

struct Params {
    rows: u32, // of this part
    blocks: u32, // columns / 32
    grid_x: u32,
    x_offset: u32, // in 16 bytes
    out_offset: u32, // first row of this part included
    first_column: u32, // of the norm: the first row of this part
    columns: u32, // of the norm
    normed_offset: u32,
    stream_0: u32, // in the part: see shared/place.wgsl
    stream_1: u32,
    stream_2: u32,
}
var<immediate> params: Params;

// binding 0 is `x`, of the activations
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [rows, cols] of a part: its streams
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [rows]
@group(0) @binding(3) var<storage, read> norm: array<f32>; // [columns]
@group(0) @binding(4) var<storage, read_write> normed: array<f32>; // [columns]
@group(0) @binding(5) var<storage, read_write> squares: array<f32>; // [columns / 32]
@group(0) @binding(6) var<storage, read_write> packed: array<u32>; // [words]: see shared/quantise.wgsl

var<workgroup> square: array<f32, 32>;

@compute @workgroup_size(threads)
fn matvec_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = (group.y * params.grid_x + group.x) * 32u;
    if first >= params.rows {
        return;
    }
    prepare(local);
    let column = params.first_column + first;
    // on their way while the rows are
    var before = 0.0;
    var weight = 0.0;
    if local < 32u {
        before = out[params.out_offset + first + local];
        weight = norm[column + local];
    }
    let matrix = Place(params.stream_0, params.stream_1, params.stream_2);
    let row = first + local / lanes * sums;
    keep_all(local, times_rows(matrix, row, params.rows - 1u, params.x_offset, local % lanes));
    workgroupBarrier();
    if local < 32u {
        let v = before + total(local % sums, local / sums);
        out[params.out_offset + first + local] = v;
        let weighed = v * weight;
        normed[params.normed_offset + column + local] = weighed;
        of_group[local] = weighed;
        square[local] = v * v;
    }
    workgroupBarrier();
    if local == 0u {
        var sum = vec4<f32>();
        for (var i = 0u; i < 32u; i += 4u) {
            sum += vec4<f32>(square[i], square[i + 1u], square[i + 2u], square[i + 3u]);
        }
        squares[column / 32u] = (sum.x + sum.y) + (sum.z + sum.w);
    }
    if pack == 1u {
        pack_group(local, column / 32u, params.columns);
    }
}
