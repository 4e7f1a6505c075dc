// Bias, RMS norm and rotation of heads in `x`, by 128 threads or more, in a shader with `x` and `vectors` as attention.wgsl has
// them and the parameter `bias`. All kernels that make keys take this, so a key has the same bits whichever made it.
// c = x + bias ; n = c / sqrt(mean(c^2) + eps) * norm, or c where there is no norm
// y[i] = n[i] cos_i - n[i + m] sin_i ; y[i + m] = n[i + m] cos_i + n[i] sin_i for i < m = half_rotary ; the rest as is

override has_bias: u32 = 0u;
override dim: u32 = 128u; // of a head, a multiple of 4
override half_rotary: u32 = 32u;

var<workgroup> squares: array<vec2<f32>, 128>;
var<workgroup> square_sums: array<vec2<f32>, 8>;

// A column of the row of `x` that starts at `row`.
fn element(row: u32, column: u32) -> f32 {
    if has_bias == 1u {
        return x[row + column] + vectors[params.bias + column];
    }
    return x[row + column];
}

// Sums of squares of the two heads of a row that begin at columns `first` and `second`, the same for all threads.
fn sums_of_squares(local: u32, row: u32, first: u32, second: u32) -> vec2<f32> {
    var sum = vec2<f32>();
    if local < 128u {
        for (var i = local; i < dim; i += 128u) {
            let v = vec2<f32>(element(row, first + i), element(row, second + i));
            sum = fma(v, v, sum);
        }
        squares[local] = sum;
    }
    workgroupBarrier();
    if local < 8u {
        sum = vec2<f32>();
        for (var i = local; i < 128u; i += 8u) {
            sum += squares[i];
        }
        square_sums[local] = sum;
    }
    workgroupBarrier();
    return ((square_sums[0] + square_sums[1]) + (square_sums[2] + square_sums[3]))
        + ((square_sums[4] + square_sums[5]) + (square_sums[6] + square_sums[7]));
}

// The element that `i` is rotated with; itself where it is not.
fn partner(i: u32) -> u32 {
    return select(select(i, i - half_rotary, i >= half_rotary && i < 2u * half_rotary), i + half_rotary, i < half_rotary);
}

// An element from its normed value, its partner's, and the token's cosines and sines from `angles` on.
fn rotated(i: u32, n: f32, other: f32, angles: u32) -> f32 {
    if i >= 2u * half_rotary {
        return n;
    }
    let angle = angles + i % max(half_rotary, 1u);
    let turned = other * rope[angle + half_rotary];
    return fma(n, rope[angle], select(turned, -turned, i < half_rotary));
}
