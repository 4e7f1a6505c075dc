// Tiles of f32: 16 columns at a time, half a block, are in workgroup memory.

//import activations
//import block
//import place
//import tile

override row_quads: u32 = 4u * tile_rows;
override token_quads: u32 = 4u * tile_tokens;
override all_row_quads: u32 = column_parts * row_quads; // `threads` at least
override all_token_quads: u32 = column_parts * token_quads;
override brings_two: bool = tile_rows + tile_tokens > part_threads;

var<workgroup> rows_of_tile: array<vec4<f32>, all_row_quads>; // [part, quad of columns, row]
var<workgroup> tokens_of_tile: array<vec4<f32>, all_token_quads>; // [part, quad of columns, token]

var<private> part: u32; // of the columns: the thread's

// Four columns of four tokens, a vector for each column.
struct FourTokens {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

fn four_tokens(quad: u32, token: u32) -> FourTokens {
    let at = part * token_quads + quad * tile_tokens + token;
    let t0 = tokens_of_tile[at];
    let t1 = tokens_of_tile[at + token_threads];
    let t2 = tokens_of_tile[at + 2u * token_threads];
    let t3 = tokens_of_tile[at + 3u * token_threads];
    return FourTokens(
        vec4<f32>(t0.x, t1.x, t2.x, t3.x), vec4<f32>(t0.y, t1.y, t2.y, t3.y),
        vec4<f32>(t0.z, t1.z, t2.z, t3.z), vec4<f32>(t0.w, t1.w, t2.w, t3.w),
    );
}

// `sum` and the products of four columns of a row with four tokens, one column after the other.
fn add_row(at: u32, x: FourTokens, sum: vec4<f32>) -> vec4<f32> {
    let w = rows_of_tile[at];
    let ab = fma(vec4<f32>(w.y), x.b, fma(vec4<f32>(w.x), x.a, sum));
    return fma(vec4<f32>(w.w), x.d, fma(vec4<f32>(w.z), x.c, ab));
}

fn add_half_block(row: u32, token: u32, s: Sums) -> Sums {
    var sums = s;
    for (var quad = 0u; quad < 4u; quad++) {
        let x = four_tokens(quad, token);
        let at = part * row_quads + quad * tile_rows + row;
        sums.r0 = add_row(at, x, sums.r0);
        if row_sums > 1u {
            sums.r1 = add_row(at + row_threads, x, sums.r1);
        }
        if row_sums > 2u {
            sums.r2 = add_row(at + 2u * row_threads, x, sums.r2);
            sums.r3 = add_row(at + 3u * row_threads, x, sums.r3);
        }
        if row_sums > 4u {
            sums.r4 = add_row(at + 4u * row_threads, x, sums.r4);
            sums.r5 = add_row(at + 5u * row_threads, x, sums.r5);
            sums.r6 = add_row(at + 6u * row_threads, x, sums.r6);
            sums.r7 = add_row(at + 7u * row_threads, x, sums.r7);
        }
    }
    return sums;
}

// An item is a row or a token of the tile, tokens behind rows: a block of it, which lies at `place`.
fn columns_of_item(matrix: Place, n: u32, place: u32, block: u32) -> array<vec4<f32>, 8> {
    if n < tile_rows {
        return row_columns(block_of(matrix, place, block));
    }
    return token_columns(load(place, block));
}

fn place_of_item(n: u32) -> u32 {
    if n < tile_rows {
        return matrix_row(n);
    }
    return token_start(n - tile_rows);
}

// Puts 16 columns of an item into workgroup memory.
fn bring(n: u32, c0: vec4<f32>, c1: vec4<f32>, c2: vec4<f32>, c3: vec4<f32>) {
    if n < tile_rows {
        let at = part * row_quads + n;
        rows_of_tile[at] = c0;
        rows_of_tile[at + tile_rows] = c1;
        rows_of_tile[at + 2u * tile_rows] = c2;
        rows_of_tile[at + 3u * tile_rows] = c3;
    } else if n - tile_rows < tile_tokens {
        let at = part * token_quads + n - tile_rows;
        tokens_of_tile[at] = c0;
        tokens_of_tile[at + tile_tokens] = c1;
        tokens_of_tile[at + 2u * tile_tokens] = c2;
        tokens_of_tile[at + 3u * tile_tokens] = c3;
    }
}

// The sums of a thread over the columns of its part. All threads of a workgroup call it together.
fn tile_sums(matrix: Place, thread: u32) -> Sums {
    part = select(thread / part_threads, 0u, column_parts == 1u);
    let local = thread - part * part_threads;
    let row = first_row(local);
    let token = first_token(local);
    // a thread brings a block of a row or of a token; some bring two where there are more of these than threads
    let other = local + part_threads;
    let its_place = place_of_item(local);
    let other_place = place_of_item(other);
    let last = params.blocks - 1u;
    let steps = (params.blocks + column_parts - 1u) / column_parts;
    let first = part * steps;
    var columns = columns_of_item(matrix, local, its_place, min(first, last));
    var more: array<vec4<f32>, 8>;
    if brings_two {
        more = columns_of_item(matrix, other, other_place, min(first, last));
    }
    var sums = Sums();
    for (var step = 0u; step < steps; step++) {
        // the last parts may be shorter, or none
        let there_is = column_parts == 1u || first + step <= last;
        bring(local, columns[0], columns[1], columns[2], columns[3]);
        if brings_two {
            bring(other, more[0], more[1], more[2], more[3]);
        }
        workgroupBarrier();
        if there_is {
            sums = add_half_block(row, token, sums);
        }
        workgroupBarrier();
        bring(local, columns[4], columns[5], columns[6], columns[7]);
        if brings_two {
            bring(other, more[4], more[5], more[6], more[7]);
        }
        workgroupBarrier();
        // the next block is on its way while this one is multiplied
        let next = min(first + step + 1u, last);
        columns = columns_of_item(matrix, local, its_place, next);
        if brings_two {
            more = columns_of_item(matrix, other, other_place, next);
        }
        if there_is {
            sums = add_half_block(row, token, sums);
        }
        workgroupBarrier();
    }
    return sums;
}
