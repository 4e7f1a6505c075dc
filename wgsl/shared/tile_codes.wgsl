// Codes of two blocks of 32 columns at a time of a tile of integers, in workgroup memory.

//import tile

override row_codes: u32 = 4u * tile_rows;
override token_codes: u32 = 4u * tile_tokens;

var<workgroup> codes_of_rows: array<vec4<u32>, row_codes>; // [block of 2, half, row]
var<workgroup> codes_of_tokens: array<vec4<u32>, token_codes>; // [block of 2, half, token]

// A block of four tokens: a, b, c and d.
struct FourCodes {
    a0: vec4<u32>,
    a1: vec4<u32>,
    b0: vec4<u32>,
    b1: vec4<u32>,
    c0: vec4<u32>,
    c1: vec4<u32>,
    d0: vec4<u32>,
    d1: vec4<u32>,
}

fn four_codes(block: u32, token: u32) -> FourCodes {
    let low = 2u * block * tile_tokens + token;
    let high = low + tile_tokens;
    return FourCodes(
        codes_of_tokens[low], codes_of_tokens[high],
        codes_of_tokens[low + token_threads], codes_of_tokens[high + token_threads],
        codes_of_tokens[low + 2u * token_threads], codes_of_tokens[high + 2u * token_threads],
        codes_of_tokens[low + 3u * token_threads], codes_of_tokens[high + 3u * token_threads],
    );
}
