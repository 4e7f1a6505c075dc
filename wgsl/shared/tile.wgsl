// A tile of a product: rows of a matrix times tokens. A thread keeps the sums of `row_sums` rows, `row_threads` apart, for
// four tokens, `token_threads` apart. It adds up an output over the columns from first to last, so bits depend neither
// on the tile, nor on the company of a token. Matrices of few rows have parts of the columns, each with threads of its own,
// whose sums are added up in their order: as many parts for all tiles of a matrix.
//
// A kernel that has tiles says where they lie: `matrix_row(k)` is the row of the matrix, `token_start(t)` the place of
// the activations, in 16 bytes; both take what is beyond the last to be the last.

override row_threads: u32 = 8u; // a multiple of 8
override token_threads: u32 = 16u; // `row_sums` or more, a power of two
override row_sums: u32 = 8u; // 1, 2, 4 or 8
override column_parts: u32 = 1u; // of tiles of f32
override part_threads: u32 = row_threads * token_threads;
override threads: u32 = part_threads * column_parts;
override tile_rows: u32 = row_threads * row_sums; // `part_threads`, or at most half as many
override tile_tokens: u32 = token_threads * 4u; // at most `part_threads / 2`

// Of rows of a thread, four tokens each. What is beyond `row_sums` is 0.
struct Sums {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
    r4: vec4<f32>,
    r5: vec4<f32>,
    r6: vec4<f32>,
    r7: vec4<f32>,
}

// The first row of a thread of a part in the tile. Threads in a row share out 8 rows and some tokens: few banks are read twice.
fn first_row(local: u32) -> u32 {
    return local / (8u * token_threads) * 8u + local % 8u;
}

// The first token of a thread of a part in the tile.
fn first_token(local: u32) -> u32 {
    return local / 8u % token_threads;
}
