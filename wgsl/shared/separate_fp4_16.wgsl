// NVFP4 of safetensors: numbers of 4 bits (E2M1), two a byte, a scale of 8 bits (E4M3) for 16 and, where the matrix has one, a
// scale for the row.
// Streams: numbers, scales, scales of rows.

//import numbers_of_4_bits
//import numbers_of_8_bits
//import place
//import separated

override row_scales: u32 = 0u; // 1: there are scales of rows

// The eight numbers of a word in the order of columns, a byte each.
fn in_columns(word: u32) -> vec2<u32> {
    let pairs = vec2<u32>(word & 0xffffu, word >> 16u);
    let bytes = (pairs | (pairs << vec2<u32>(8u))) & vec2<u32>(0x00ff00ffu);
    return (bytes | (bytes << vec2<u32>(4u))) & vec2<u32>(0x0f0f0f0fu);
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let index = row * params.blocks + block;
    let words = weights[(matrix.stream_0 >> 2u) + index];
    let a = numbers_of_4_bits(vec4<u32>(in_columns(words.x), in_columns(words.y)));
    let b = numbers_of_4_bits(vec4<u32>(in_columns(words.z), in_columns(words.w)));
    let scales = word(matrix.stream_1 + (index >> 1u)) >> ((index & 1u) * 16u);
    var half = 0.5;
    if row_scales == 1u {
        half *= bitcast<f32>(word(matrix.stream_2 + row));
    }
    let scale = vec2<f32>(e4m3(scales & 0xffu), e4m3((scales >> 8u) & 0xffu)) * half;
    return Separated(array<vec4<u32>, 2>(a, b), scale, vec2<f32>());
}
