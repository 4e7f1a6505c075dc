// Four blocks of MXFP4 are 17 words, in which numbers lie at shifts that are known.

//import activations
//import dot_4_bits
//import four_blocks
//import numbers_of_8_bits
//import place
//import separate_numbers
//import words_in_a_row

// What lies `bits` behind the first bit of words, before that of `next`.
fn behind_words(words: vec4<u32>, next: u32, bits: u32) -> vec4<u32> {
    return (words >> vec4<u32>(bits)) | (vec4<u32>(words.yzw, next) << vec4<u32>(32u - bits));
}

fn dot_numbers(exponent: u32, numbers: vec4<u32>, x: Activations) -> f32 {
    return half_of_power(exponent & 0xffu) * (f32(dot_4_bits(numbers, x.codes)) * x.scale);
}

fn dot_unit(matrix: Place, row: u32, unit: u32, x: Unit) -> f32 {
    if unit_blocks == 1u {
        return scale_at(matrix, row, unit) * (f32(dot_4_bits(numbers_at(matrix, row, unit), x.a.codes)) * x.a.scale);
    }
    let w = words_from(matrix.stream_0 + (row * (params.blocks / 4u) + unit) * 17u);
    let first = dot_numbers(w.a.x, behind_words(w.a, w.b.x, 8u), x.a);
    let second = dot_numbers(w.b.x >> 8u, behind_words(w.b, w.c.x, 16u), x.b);
    let third = dot_numbers(w.c.x >> 16u, behind_words(w.c, w.d.x, 24u), x.c);
    let fourth = dot_numbers(w.d.x >> 24u, vec4<u32>(w.d.yzw, w.e.x), x.d);
    return (first + second) + (third + fourth);
}
