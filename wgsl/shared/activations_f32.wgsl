// Activations in f32, and products with a block of 32 columns.

//import dot_columns

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

fn row_columns(w: Weights) -> array<vec4<f32>, 8> {
    return w.columns;
}

fn token_columns(x: Activations) -> array<vec4<f32>, 8> {
    return x.columns;
}

fn dot_block(w: Weights, x: Activations) -> f32 {
    return dot_columns(w.columns, x.columns);
}
