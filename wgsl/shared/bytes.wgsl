// Bytes of `weights` wherever they lie: blocks of GGUF files have 17 to 210 of them, and rows need not start at whole words.

//import place

// The word whose first byte is `byte`. Nothing behind it is read.
fn word_at(byte: u32) -> u32 {
    let at = byte >> 2u;
    let shift = (byte & 3u) * 8u;
    return (word(at) >> shift) | ((word(at + min(shift, 1u)) << (31u - shift)) << 1u);
}

// The same where the byte's number is even.
fn even_word_at(byte: u32) -> u32 {
    let at = byte >> 2u;
    let is_odd = (byte & 2u) != 0u;
    let first = word(at);
    return select(first, (first >> 16u) | (word(at + u32(is_odd)) << 16u), is_odd);
}

// Two words in a row from an even byte on.
fn two_words_at(byte: u32) -> vec2<u32> {
    let at = byte >> 2u;
    let is_odd = (byte & 2u) != 0u;
    let a = word(at);
    let b = word(at + 1u);
    let c = word(at + 1u + u32(is_odd));
    return select(vec2<u32>(a, b), vec2<u32>((a >> 16u) | (b << 16u), (b >> 16u) | (c << 16u)), is_odd);
}

// Words 0 to 4 of eight, or those `n` behind them, 0 to 3.
fn from_word(n: u32, a: vec4<u32>, b: vec4<u32>) -> array<u32, 5> {
    let two = (n & 2u) != 0u;
    let x = select(a.x, a.z, two);
    let y = select(a.y, a.w, two);
    let z = select(a.z, b.x, two);
    let w = select(a.w, b.y, two);
    let v = select(b.x, b.z, two);
    let u = select(b.y, b.w, two);
    let one = (n & 1u) != 0u;
    return array<u32, 5>(select(x, y, one), select(y, z, one), select(z, w, one), select(w, v, one), select(v, u, one));
}

// Four words whose first byte is `shift` bits behind the first of five.
fn shifted(words: array<u32, 5>, shift: u32) -> vec4<u32> {
    let these = vec4<u32>(words[0], words[1], words[2], words[3]);
    let next = vec4<u32>(words[1], words[2], words[3], words[4]);
    // 2 to the power of what is left of 32 bits, which is lost where that is all: a product and a sum are one instruction
    let left = (1u << (31u - shift)) << 1u;
    return (these >> vec4<u32>(shift)) + next * left;
}

// Four words in a row, by loads of 16 bytes: a load a word keeps an H200's caches three times as busy.
fn words_at(byte: u32) -> vec4<u32> {
    let first = weights[byte >> 4u];
    let second = weights[(byte + 15u) >> 4u];
    return shifted(from_word((byte >> 2u) & 3u, first, second), (byte & 3u) * 8u);
}

// Eight words in a row, four and four.
fn eight_words_at(byte: u32) -> array<vec4<u32>, 2> {
    let first = weights[byte >> 4u];
    let second = weights[(byte >> 4u) + 1u];
    let third = weights[(byte + 31u) >> 4u];
    let n = (byte >> 2u) & 3u;
    let shift = (byte & 3u) * 8u;
    return array<vec4<u32>, 2>(
        shifted(from_word(n, first, second), shift),
        shifted(from_word(n, second, third), shift),
    );
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

// The first byte of the block of the file that has 32 columns of a row; `block_bytes` and `block_groups` are its type's.
fn first_byte(matrix: Place, row: u32, block: u32) -> u32 {
    let at = row * (params.blocks / block_groups) + block / block_groups;
    return matrix.stream_0 * 4u + at * block_bytes;
}
