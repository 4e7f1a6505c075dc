// Bytes of `weights` wherever they lie: blocks of GGUF files have 17 to 210 of them, and rows need not start at whole words.

//import place

// The word whose first byte is `byte`. Nothing behind it is read.
fn word_at(byte: u32) -> u32 {
    let at = byte >> 2u;
    let shift = (byte & 3u) * 8u;
    return (word(at) >> shift) | ((word(at + min(shift, 1u)) << (31u - shift)) << 1u);
}

// Four words in a row.
fn words_at(byte: u32) -> vec4<u32> {
    let at = byte >> 2u;
    let shift = (byte & 3u) * 8u;
    let low = vec4<u32>(word(at), word(at + 1u), word(at + 2u), word(at + 3u));
    let next = vec4<u32>(low.yzw, word(at + 3u + min(shift, 1u)));
    return (low >> vec4<u32>(shift)) | ((next << vec4<u32>(31u - shift)) << vec4<u32>(1u));
}

fn byte_at(byte: u32) -> u32 {
    return (word(byte >> 2u) >> ((byte & 3u) * 8u)) & 0xffu;
}

// Two bytes at an even place.
fn short_at(byte: u32) -> u32 {
    return (word(byte >> 2u) >> ((byte & 2u) * 8u)) & 0xffffu;
}

// An f16 at an even place.
fn half_at(byte: u32) -> f32 {
    return unpack2x16float(short_at(byte)).x;
}
