// Tiles of a product by the matrix units of a device, of weights and activations in f16 with sums in f32. A unit multiplies
// `unit` x `unit` numbers. A subgroup, 32 threads in a row, keeps twice as many rows for `token_tiles` times as many tokens.
// Two blocks of 32 columns at a time are in workgroup memory, quads of the one between those of the other, and are added
// `unit` columns at a time in that order: bits depend neither on the tile, nor on the company of a token. A block of a row is
// brought by a thread, two in a row by neighbours, who read and write side by side.
//
// A kernel says where rows and tokens lie, `matrix_row(k)` and `token_start(t)`, which take what is beyond the last to be the
// last; and what becomes of sums: `take_tile` gets those of a subgroup, from its first row and token on.

enable f16;
enable wgpu_cooperative_matrix;

//import activations
//import block
//import matrix_unit
//import place
//import weight_halves

override row_subgroups: u32 = 4u;
override token_subgroups: u32 = 2u;
override token_tiles: u32 = 4u; // of a subgroup: 1, 2 or 4
override subgroups: u32 = row_subgroups * token_subgroups;
override threads: u32 = 32u * subgroups;
override tile_rows: u32 = 2u * unit * row_subgroups; // at most `threads`
override tile_tokens: u32 = unit * token_tiles * token_subgroups; // likewise

const stride: u32 = 18u; // quads from row to row, two of them unused: 8 rows in a row are in banks of their own
// a thread brings two at most
override row_blocks: u32 = 2u * tile_rows;
override token_blocks: u32 = 2u * tile_tokens;

fn keep_row(brought: u32, w: Weights) {
    let quads = weight_halves(w);
    let at = brought / 2u * stride + brought % 2u;
    for (var k = 0u; k < 8u; k++) {
        keep_row_quad(at + 2u * k, quads[k]);
    }
}

// Of a block that there is: behind the last one come zeros.
fn keep_token(brought: u32, x: Activations, there_is: bool) {
    let quads = activation_halves(x);
    let at = brought / 2u * stride + brought % 2u;
    for (var k = 0u; k < 8u; k++) {
        keep_token_quad(at + 2u * k, select(vec4<f16>(), quads[k], there_is));
    }
}

// Adds up a tile over all columns. All threads of a workgroup call it together.
fn multiply_tile(matrix: Place, local: u32) {
    let last = params.blocks - 1u;
    let odd = local % 2u;
    let other = local + threads;
    let row_0 = matrix_row(min(local / 2u, tile_rows - 1u));
    let row_1 = matrix_row(min(other / 2u, tile_rows - 1u));
    let token_0 = token_start(min(local / 2u, tile_tokens - 1u));
    let token_1 = token_start(min(other / 2u, tile_tokens - 1u));
    // of the subgroup
    let first_row = local / 32u % row_subgroups * 2u * unit;
    let first_token = local / 32u / row_subgroups * unit * token_tiles;
    let rows_at = first_row * stride;
    let tokens_at = first_token * stride;
    prepare_sums(local);
    var w0: Weights;
    var w1: Weights;
    var x0: Activations;
    var x1: Activations;
    var c00 = no_sums();
    var c01 = no_sums();
    var c02 = no_sums();
    var c03 = no_sums();
    var c10 = no_sums();
    var c11 = no_sums();
    var c12 = no_sums();
    var c13 = no_sums();
    if local < row_blocks {
        w0 = block_of(matrix, row_0, min(odd, last));
    }
    if row_blocks > threads {
        w1 = block_of(matrix, row_1, min(odd, last));
    }
    if local < token_blocks {
        x0 = load(token_0, min(odd, last));
    }
    if token_blocks > threads {
        x1 = load(token_1, min(odd, last));
    }
    for (var step = 0u; step < params.blocks; step += 2u) {
        let block = step + odd;
        if local < row_blocks {
            keep_row(local, w0);
        }
        if row_blocks > threads {
            keep_row(other, w1);
        }
        if local < token_blocks {
            keep_token(local, x0, block <= last);
        }
        if token_blocks > threads {
            keep_token(other, x1, block <= last);
        }
        workgroupBarrier();
        // the next ones are on their way while these are multiplied
        let next = min(block + 2u, last);
        if local < row_blocks {
            w0 = block_of(matrix, row_0, next);
        }
        if row_blocks > threads {
            w1 = block_of(matrix, row_1, next);
        }
        if local < token_blocks {
            x0 = load(token_0, next);
        }
        if token_blocks > threads {
            x1 = load(token_1, next);
        }
        for (var k = 0u; k < 16u; k += unit / 4u) {
            let a0 = coopLoadT<UnitA>(&halves_of_rows[cells * (rows_at + k)], cells * stride);
            let a1 = coopLoadT<UnitA>(&halves_of_rows[cells * (rows_at + unit * stride + k)], cells * stride);
            let b0 = coopLoad<UnitB>(&halves_of_tokens[cells * (tokens_at + k)], cells * stride);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c10 = coopMultiplyAdd(a1, b0, c10);
            if token_tiles > 1u {
                let b1 = coopLoad<UnitB>(&halves_of_tokens[cells * (tokens_at + unit * stride + k)], cells * stride);
                c01 = coopMultiplyAdd(a0, b1, c01);
                c11 = coopMultiplyAdd(a1, b1, c11);
            }
            if token_tiles > 2u {
                let b2 = coopLoad<UnitB>(&halves_of_tokens[cells * (tokens_at + 2u * unit * stride + k)], cells * stride);
                let b3 = coopLoad<UnitB>(&halves_of_tokens[cells * (tokens_at + 3u * unit * stride + k)], cells * stride);
                c02 = coopMultiplyAdd(a0, b2, c02);
                c12 = coopMultiplyAdd(a1, b2, c12);
                c03 = coopMultiplyAdd(a0, b3, c03);
                c13 = coopMultiplyAdd(a1, b3, c13);
            }
        }
        workgroupBarrier();
    }
    take_tile(local, first_row, first_token, c00, c01, c02, c03, c10, c11, c12, c13);
}
