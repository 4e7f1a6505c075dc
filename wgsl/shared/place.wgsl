// Where a matrix lies in `weights`, in words, and products with a block of 32 of its columns.
struct Place {
    codes: u32,
    scales: u32,
    biases: u32,
}

// Four running sums; every kernel adds a block in this order, so a product does not depend on which kernel took it.
fn dot_block(w: array<vec4<f32>, 8>, x: array<vec4<f32>, 8>, sum: vec4<f32>) -> vec4<f32> {
    var acc = sum;
    acc = fma(w[0], x[0], acc);
    acc = fma(w[1], x[1], acc);
    acc = fma(w[2], x[2], acc);
    acc = fma(w[3], x[3], acc);
    acc = fma(w[4], x[4], acc);
    acc = fma(w[5], x[5], acc);
    acc = fma(w[6], x[6], acc);
    acc = fma(w[7], x[7], acc);
    return acc;
}

fn horizontal(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}
