// Heads of a cache in 8 bits: words of four codes, then words of two scales in bf16, each of 32 elements.
// scale = the upper half of the largest / 127, halfway up ; code = round(x / scale) ; x' = code * scale

//import own

override code_words: u32 = dim / 4u; // of a head

// The scale of quad `i`, from the word that has it.
fn scale_in(word: u32, i: u32) -> f32 {
    return bitcast<f32>(word >> (16u * (i / 8u % 2u)) << 16u);
}

// The word of scales that quad `i` has, after the codes.
fn scale_word(i: u32) -> u32 {
    return code_words + i / 16u;
}

// The scale of a group of own[first..], as the bits of its upper half; 0 past the end. Of numbers that are not negative
// the larger one has the larger bits, and what is no number the largest.
fn scale_bits(first: u32, group: u32) -> u32 {
    var largest = 0u;
    for (var q = 8u * group; q < min(8u * group + 8u, code_words); q++) {
        let bits = bitcast<vec4<u32>>(own[first + q]) & vec4<u32>(0x7fffffffu);
        largest = max(largest, max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    if largest > 0x7f800000u {
        return 0x7fc0u;
    }
    return (bitcast<u32>(bitcast<f32>(largest) * (1.0 / 127.0)) + 0x8000u) >> 16u;
}

fn codes_of(first: u32, i: u32, scale: f32) -> vec4<i32> {
    let inverse = select(0.0, 1.0 / scale, scale > 0.0);
    return vec4<i32>(clamp(round(own[first + i] * inverse), vec4<f32>(-127.0), vec4<f32>(127.0)));
}

// Cell `i` of the head own[first..].
fn cell_of_8(first: u32, i: u32) -> u32 {
    if i >= code_words {
        let group = 2u * (i - code_words);
        return scale_bits(first, group) | (scale_bits(first, group + 1u) << 16u);
    }
    let codes = vec4<u32>(codes_of(first, i, bitcast<f32>(scale_bits(first, i / 8u) << 16u))) & vec4<u32>(255u);
    return codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
}

// Quad `i` of the head own[first..] as it will be read.
fn kept_of_8(first: u32, i: u32) -> vec4<f32> {
    let scale = bitcast<f32>(scale_bits(first, i / 8u) << 16u);
    return vec4<f32>(codes_of(first, i, scale)) * scale;
}
