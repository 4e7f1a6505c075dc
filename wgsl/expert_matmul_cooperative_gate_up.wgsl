// Gate and up projection of the routed experts with SwiGLU for many tokens, as expert_matmul_gate_up.wgsl, by the matrix units
// of a device. Rows of a tile are 32 of gate, the same of up, and so on: groups of 32 hidden values, which share a scale.

enable f16;
enable wgpu_cooperative_matrix;

//import activations
//import expert_tile
//import quantise
//import tile_cooperative
//import tile_in_parts

override packed: u32 = 0u;

@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [pairs, intermediate] as f32 or packed

var<private> first_hidden: u32; // of the tile

fn matrix_row(k: u32) -> u32 {
    return min(first_hidden + k / 64u * 32u + k % 32u, params.rows - 1u) + k / 32u % 2u * params.rows;
}

fn token_start(t: u32) -> u32 {
    return pairs[tile.x + min(t, tile.y - 1u)].x * params.x_stride;
}

// Hidden value `i` of group `g` of a pair.
fn hidden_value(t: u32, g: u32, i: u32) -> f32 {
    let at = t * sum_stride + 64u * g + i;
    let gate = sums_of_tile[at];
    return gate / (1.0 + exp(-gate)) * sums_of_tile[at + 32u];
}

// Of the pairs of the tile that are kept, from pair `first` on.
fn take_sums(local: u32, first: u32) {
    let width = tile_rows / 2u;
    if packed == 0u {
        for (var i = local; i < kept_tokens * width; i += threads) {
            let t = i / width;
            let hidden = first_hidden + i % width;
            if hidden < params.rows && first + t < tile.y {
                let h = hidden_value(t, i % width / 32u, i % 32u);
                out[pairs[tile.x + first + t].y * params.out_stride + hidden] = bitcast<u32>(h);
            }
        }
        return;
    }
    // 8 threads a group; those that are too many do the last one again, and write nothing
    let groups = kept_tokens * width / 32u;
    for (var first_group = 0u; first_group < groups; first_group += threads / 8u) {
        let own = first_group + local / 8u;
        let i = min(own, groups - 1u);
        let t = i / (width / 32u);
        let g = i % (width / 32u);
        let j = local & 7u;
        let c = first_column(j);
        let v = vec4<f32>(
            hidden_value(t, g, c), hidden_value(t, g, c + interleave),
            hidden_value(t, g, c + 2u * interleave), hidden_value(t, g, c + 3u * interleave),
        );
        let q = quantise_group(local, v);
        let hidden = first_hidden + 32u * g;
        if own < groups && hidden < params.rows && first + t < tile.y {
            let row = pairs[tile.x + first + t].y * params.out_stride;
            out[row + hidden / 4u + j] = q.word;
            if j == 0u {
                let place = row + params.rows / 4u + hidden / 16u;
                out[place] = bitcast<u32>(q.scale);
                out[place + 1u] = bitcast<u32>(q.sum);
            }
        }
    }
}

@compute @workgroup_size(threads)
fn expert_matmul_cooperative_gate_up(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if !take_expert_tile(group.z) {
        return;
    }
    first_hidden = (group.y * params.grid_x + group.x) * (tile_rows / 2u);
    for (var part = 0u; part < tile_parts; part++) {
        if !take_part(part) {
            return;
        }
        multiply_tile(expert_matrix(), local);
    }
}
