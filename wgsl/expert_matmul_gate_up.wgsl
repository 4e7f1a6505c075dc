// Gate and up projection of the routed experts with SwiGLU for many tokens: 32 hidden values of the pairs of one expert
// a workgroup.
// out[p, i] = silu(gate[i] . x[t]) * (up[i] . x[t])
// The first half of a tile's rows are of gate, the second of up: a thread has both of a hidden value. Those of a pair
// are quantised together (see shared/quantise.wgsl) when the down projection wants that: then `packed` is 1.

//import activations
//import expert_tile
//import quantise
//import tile
//import tile_form

override packed: u32 = 0u;

@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [pairs, intermediate] as f32 or packed

// One more than 32, so that pairs lie in different banks.
override hidden_values: u32 = 33u * token_threads;

var<workgroup> hidden: array<f32, hidden_values>; // [pair, 32 and one], one pair of each thread's four

var<private> first: u32; // hidden value of the tile

// The tile has 64 rows.
fn matrix_row(k: u32) -> u32 {
    return min(first + k % 32u, params.rows - 1u) + k / 32u * params.rows;
}

fn token_start(t: u32) -> u32 {
    return pairs[tile.x + min(t, tile.y - 1u)].x * params.x_stride;
}

fn swiglu(gate: vec4<f32>, up: vec4<f32>) -> vec4<f32> {
    return gate / (1.0 + exp(-gate)) * up;
}

// Writes the hidden values of every fourth pair, from pair `first_pair` of the tile on: those of this thread are in `h`.
fn write_pairs(local: u32, first_pair: u32, h: vec4<f32>) {
    let mine = first_token(local) * 33u + first_row(local);
    hidden[mine] = h.x;
    if row_sums > 2u {
        hidden[mine + row_threads] = h.y;
    }
    if row_sums > 4u {
        hidden[mine + 2u * row_threads] = h.z;
        hidden[mine + 3u * row_threads] = h.w;
    }
    workgroupBarrier();
    if packed == 0u {
        for (var i = local; i < 32u * token_threads; i += threads) {
            let t = first_pair + i / 32u;
            if t < tile.y {
                out[pairs[tile.x + t].y * params.out_stride + first + i % 32u] = bitcast<u32>(hidden[i / 32u * 33u + i % 32u]);
            }
        }
    } else {
        // 8 threads a pair; those that are too many do the last one again, and write nothing
        let n = min(local / 8u, token_threads - 1u);
        let j = local & 7u;
        let at = n * 33u + first_column(j);
        let v = vec4<f32>(hidden[at], hidden[at + interleave], hidden[at + 2u * interleave], hidden[at + 3u * interleave]);
        let q = quantise_group(local, v);
        if local / 8u < token_threads && first_pair + n < tile.y {
            let row = pairs[tile.x + first_pair + n].y * params.out_stride;
            out[row + first / 4u + j] = q.word;
            if j == 0u {
                let place = row + params.rows / 4u + first / 16u;
                out[place] = bitcast<u32>(q.scale);
                out[place + 1u] = bitcast<u32>(q.sum);
            }
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(threads)
fn expert_matmul_gate_up(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    if !take_expert_tile(group.z) {
        return;
    }
    first = (group.y * params.grid_x + group.x) * 32u;
    let s = tile_sums(expert_matrix(), local);
    // of each hidden value four pairs
    var h0 = swiglu(s.r0, s.r1);
    var h1 = vec4<f32>();
    var h2 = vec4<f32>();
    var h3 = vec4<f32>();
    if row_sums == 4u {
        h0 = swiglu(s.r0, s.r2);
        h1 = swiglu(s.r1, s.r3);
    }
    if row_sums == 8u {
        h0 = swiglu(s.r0, s.r4);
        h1 = swiglu(s.r1, s.r5);
        h2 = swiglu(s.r2, s.r6);
        h3 = swiglu(s.r3, s.r7);
    }
    write_pairs(local, 0u, vec4<f32>(h0.x, h1.x, h2.x, h3.x));
    write_pairs(local, token_threads, vec4<f32>(h0.y, h1.y, h2.y, h3.y));
    write_pairs(local, 2u * token_threads, vec4<f32>(h0.z, h1.z, h2.z, h3.z));
    write_pairs(local, 3u * token_threads, vec4<f32>(h0.w, h1.w, h2.w, h3.w));
}
