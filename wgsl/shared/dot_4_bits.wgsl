// Products of 32 numbers of 4 bits, doubled, with codes of 8 bits: the low halves of the words' bytes are multiplied with the
// first 16 codes, the high halves with the others, or halves of both with each where 8 bytes are 16 columns.

//import dot_16
//import numbers_of_4_bits

fn dot_4_bits(words: vec4<u32>, x: array<vec4<u32>, 2>) -> i32 {
    let w = complements_of_4_bits(words);
    let codes = dot_16(w.codes[0], x[0]) + dot_16(w.codes[1], x[1]);
    return codes + dot_16(w.ones[0], x[0]) + dot_16(w.ones[1], x[1]);
}

// The sum of each 16 columns.
fn dot_4_bits_by_16(words: vec4<u32>, x: array<vec4<u32>, 2>) -> vec2<f32> {
    let w = complements_of_4_bits(words);
    let a = w.codes[0];
    let b = w.codes[1];
    let first = dot_16(vec4<u32>(a.xy, b.xy), x[0]) + dot_16(vec4<u32>(w.ones[0].xy, w.ones[1].xy), x[0]);
    let second = dot_16(vec4<u32>(a.zw, b.zw), x[1]) + dot_16(vec4<u32>(w.ones[0].zw, w.ones[1].zw), x[1]);
    return vec2<f32>(f32(first), f32(second));
}
