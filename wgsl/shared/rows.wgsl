// The rows that a team shares, one a sum.

//import place
//import team
//import unit

// Sums of the thread for rows `row` to `row + sums - 1` of the matrix, at most `last`, times the row of activations that
// starts at `from`.
fn times_rows(matrix: Place, row: u32, last: u32, start: u32, lane: u32) -> array<f32, 8> {
    var a = array<f32, 8>();
    for (var unit = lane; unit < params.blocks / unit_blocks; unit += lanes) {
        let v = load_unit(start, unit);
        a[0] += dot_unit(matrix, min(row, last), unit, v);
        if sums > 1u {
            a[1] += dot_unit(matrix, min(row + 1u, last), unit, v);
        }
        if sums > 2u {
            a[2] += dot_unit(matrix, min(row + 2u, last), unit, v);
            a[3] += dot_unit(matrix, min(row + 3u, last), unit, v);
        }
        if sums > 4u {
            a[4] += dot_unit(matrix, min(row + 4u, last), unit, v);
            a[5] += dot_unit(matrix, min(row + 5u, last), unit, v);
            a[6] += dot_unit(matrix, min(row + 6u, last), unit, v);
            a[7] += dot_unit(matrix, min(row + 7u, last), unit, v);
        }
    }
    return a;
}
