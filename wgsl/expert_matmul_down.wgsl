// Down projection of the routed experts for many tokens: a tile of rows and of the pairs of one expert a workgroup. With
// `of_tokens` gate or up by itself, where these have different formats: `expert_swiglu` follows.
// out[p, r] = down[r] . x[p], or out[p, out_column + r] = gate[r] . x[t]

//import activations
//import expert_tile
//import tile
//import tile_form
//import tile_write

override of_tokens: u32 = 0u; // 1: `x` has a row for each token, not for each pair
override out_column: u32 = 0u; // of row 0

@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [pairs, hidden]

var<private> tile_row: u32; // first of the tile

fn matrix_row(k: u32) -> u32 {
    return min(tile_row + k, params.rows - 1u);
}

fn token_start(t: u32) -> u32 {
    let pair = pairs[tile.x + min(t, tile.y - 1u)];
    return select(pair.y, pair.x, of_tokens == 1u) * params.x_stride;
}

fn write_sum(k: u32, t: u32, sum: f32) {
    let row = tile_row + k;
    if row < params.rows && t < tile.y {
        out[pairs[tile.x + t].y * params.out_stride + out_column + row] = sum;
    }
}

@compute @workgroup_size(threads)
fn expert_matmul_down(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if !take_expert_tile(group.z) {
        return;
    }
    tile_row = (group.y * params.grid_x + group.x) * tile_rows;
    write_sums(local, tile_sums(expert_matrix(), local));
}
