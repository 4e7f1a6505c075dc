// Activations in f32, and products with a block of 32 columns.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [rows, cols]

struct Activations {
    columns: array<vec4<f32>, 8>,
}

struct Weights {
    columns: array<vec4<f32>, 8>,
}

// Block `block` of the row that starts at vec4 `row`.
fn load(row: u32, block: u32) -> Activations {
    let at = row + block * 8u;
    return Activations(array<vec4<f32>, 8>(x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u]));
}

fn dot_block(w: Weights, x: Activations) -> f32 {
    var acc = w.columns[0] * x.columns[0];
    acc = fma(w.columns[1], x.columns[1], acc);
    acc = fma(w.columns[2], x.columns[2], acc);
    acc = fma(w.columns[3], x.columns[3], acc);
    acc = fma(w.columns[4], x.columns[4], acc);
    acc = fma(w.columns[5], x.columns[5], acc);
    acc = fma(w.columns[6], x.columns[6], acc);
    acc = fma(w.columns[7], x.columns[7], acc);
    return (acc.x + acc.y) + (acc.z + acc.w);
}
