// The second half of a norm, in a shader with `squares: array<f32>`: what a row that was only multiplied with the weights of
// the norm is to be scaled with, or what is linear in it. The sums of squares of its groups of 32 columns become known
// with it.

override squares_groups: u32 = 0u; // 0: there is nothing to be scaled
override squares_eps: f32 = 0.0;
override squares_kept: u32 = (squares_groups + 4u) / 4u * 4u;

var<workgroup> squares_of_row: array<f32, squares_kept>;

// All `threads` of a workgroup call it, and a barrier comes before `scaled`.
fn keep_squares(local: u32, threads_of_group: u32) {
    if squares_groups > 0u {
        for (var i = local; i < squares_kept; i += threads_of_group) {
            squares_of_row[i] = select(0.0, squares[min(i, squares_groups - 1u)], i < squares_groups);
        }
    }
}

fn row_scale() -> f32 {
    var sum = vec4<f32>();
    for (var i = 0u; i < squares_kept; i += 4u) {
        sum += vec4<f32>(
            squares_of_row[i], squares_of_row[i + 1u], squares_of_row[i + 2u], squares_of_row[i + 3u],
        );
    }
    return 1.0 / sqrt(((sum.x + sum.y) + (sum.z + sum.w)) / f32(32u * squares_groups) + squares_eps);
}

fn scaled(v: f32) -> f32 {
    if squares_groups > 0u {
        return v * row_scale();
    }
    return v;
}
