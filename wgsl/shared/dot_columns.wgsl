// Product of a block of 32 columns in f32.

fn dot_columns(w: array<vec4<f32>, 8>, x: array<vec4<f32>, 8>) -> f32 {
    var acc = w[0] * x[0];
    acc = fma(w[1], x[1], acc);
    acc = fma(w[2], x[2], acc);
    acc = fma(w[3], x[3], acc);
    acc = fma(w[4], x[4], acc);
    acc = fma(w[5], x[5], acc);
    acc = fma(w[6], x[6], acc);
    acc = fma(w[7], x[7], acc);
    return (acc.x + acc.y) + (acc.z + acc.w);
}
