// Tiles of integers: codes of two blocks of 32 columns at a time are in workgroup memory, and their scales.

//import activations
//import block
//import place
//import tile
//import tile_codes
//import tile_scales

fn add_row(block: u32, row: u32, x: FourCodes, x_scales: FourScales, sum: vec4<f32>) -> vec4<f32> {
    let at = 2u * block * tile_rows + row;
    return add_products(block * tile_rows + row, codes_of_rows[at], codes_of_rows[at + tile_rows], x, x_scales, sum);
}

fn add_block(block: u32, row: u32, token: u32, s: Sums) -> Sums {
    let x = four_codes(block, token);
    let x_scales = four_scales(block * tile_tokens + token);
    var sums = s;
    sums.r0 = add_row(block, row, x, x_scales, sums.r0);
    if row_sums > 1u {
        sums.r1 = add_row(block, row + row_threads, x, x_scales, sums.r1);
    }
    if row_sums > 2u {
        sums.r2 = add_row(block, row + 2u * row_threads, x, x_scales, sums.r2);
        sums.r3 = add_row(block, row + 3u * row_threads, x, x_scales, sums.r3);
    }
    if row_sums > 4u {
        sums.r4 = add_row(block, row + 4u * row_threads, x, x_scales, sums.r4);
        sums.r5 = add_row(block, row + 5u * row_threads, x, x_scales, sums.r5);
        sums.r6 = add_row(block, row + 6u * row_threads, x, x_scales, sums.r6);
        sums.r7 = add_row(block, row + 7u * row_threads, x, x_scales, sums.r7);
    }
    return sums;
}

// Block `n` of those of the rows, and of the tokens: of the two of a row, neighbours bring one each, which lie side by side.
fn keep_row(n: u32, w: Weights) {
    let at = n % 2u * 2u * tile_rows + n / 2u;
    codes_of_rows[at] = w.codes[0];
    codes_of_rows[at + tile_rows] = w.codes[1];
    keep_row_scales(n % 2u * tile_rows + n / 2u, w);
}

fn keep_token(n: u32, x: Activations) {
    let at = n % 2u * 2u * tile_tokens + n / 2u;
    codes_of_tokens[at] = x.codes[0];
    codes_of_tokens[at + tile_tokens] = x.codes[1];
    keep_token_scales(n % 2u * tile_tokens + n / 2u, x);
}

// The sums of a thread over all columns. All threads of a workgroup call it together.
fn tile_sums(matrix: Place, local: u32) -> Sums {
    let row = first_row(local);
    let token = first_token(local);
    // a thread brings a block of a row and one of a token, where there are as many; two of rows where these are more
    let other = local + threads;
    let its_row = matrix_row(min(local / 2u, tile_rows - 1u));
    let other_row = matrix_row(min(other / 2u, tile_rows - 1u));
    let its_token = token_start(min(local / 2u, tile_tokens - 1u));
    let odd = local % 2u;
    let last = params.blocks - 1u;
    var w = block_of(matrix, its_row, min(odd, last));
    var other_w: Weights;
    if row_blocks > threads {
        other_w = block_of(matrix, other_row, min(odd, last));
    }
    var x = load(its_token, min(odd, last));
    var sums = Sums();
    for (var block = 0u; block < params.blocks; block += 2u) {
        if local < row_blocks {
            keep_row(local, w);
        }
        if row_blocks > threads {
            keep_row(other, other_w);
        }
        if local < token_blocks {
            keep_token(local, x);
        }
        workgroupBarrier();
        // the next two are on their way while these are multiplied
        let next = min(block + 2u + odd, last);
        if local < row_blocks {
            w = block_of(matrix, its_row, next);
        }
        if row_blocks > threads {
            other_w = block_of(matrix, other_row, next);
        }
        if local < token_blocks {
            x = load(its_token, next);
        }
        sums = add_block(0u, row, token, sums);
        if block < last {
            sums = add_block(1u, row, token, sums);
        }
        workgroupBarrier();
    }
    return sums;
}
