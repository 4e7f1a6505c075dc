// Down projection of the routed experts for many tokens, as expert_matmul_down.wgsl, by the matrix units of a device.

enable f16;
enable wgpu_cooperative_matrix;

//import activations
//import expert_tile
//import tile_cooperative
//import tile_in_parts

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

// Of the pairs of the tile that are kept, from pair `first` on.
fn take_sums(local: u32, first: u32) {
    for (var i = local; i < kept_tokens * tile_rows; i += threads) {
        let row = tile_row + i % tile_rows;
        let t = first + i / tile_rows;
        if row < params.rows && t < tile.y {
            out[pairs[tile.x + t].y * params.out_stride + out_column + row] = sums_of_tile[i / tile_rows * sum_stride + i % tile_rows];
        }
    }
}

@compute @workgroup_size(threads)
fn expert_matmul_cooperative_down(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if !take_expert_tile(group.z) {
        return;
    }
    tile_row = (group.y * params.grid_x + group.x) * tile_rows;
    for (var part = 0u; part < tile_parts; part++) {
        if !take_part(part) {
            return;
        }
        multiply_tile(expert_matrix(), local);
    }
}
