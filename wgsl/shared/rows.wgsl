// The rows that a team shares, one a sum.

//import activations
//import block
//import place
//import team

// Sums of the thread for rows `row` to `row + sums - 1` of the matrix, at most `last`, times the row of activations that
// starts at `from`.
fn times_rows(matrix: Place, row: u32, last: u32, start: u32, lane: u32) -> array<f32, 8> {
    var a = array<f32, 8>();
    for (var block = lane; block < params.blocks; block += lanes) {
        let v = load(start, block);
        a[0] += dot_block(block_of(matrix, min(row, last), block), v);
        if sums > 1u {
            a[1] += dot_block(block_of(matrix, min(row + 1u, last), block), v);
        }
        if sums > 2u {
            a[2] += dot_block(block_of(matrix, min(row + 2u, last), block), v);
            a[3] += dot_block(block_of(matrix, min(row + 3u, last), block), v);
        }
        if sums > 4u {
            a[4] += dot_block(block_of(matrix, min(row + 4u, last), block), v);
            a[5] += dot_block(block_of(matrix, min(row + 5u, last), block), v);
            a[6] += dot_block(block_of(matrix, min(row + 6u, last), block), v);
            a[7] += dot_block(block_of(matrix, min(row + 7u, last), block), v);
        }
    }
    return a;
}
