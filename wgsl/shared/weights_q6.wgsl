// 32 6-bit codes of a row: 6 words as one stream of bits, lowest first. 4 codes are 3 bytes, so the first, second and
// third bytes of four such runs are gathered, and one mask takes every fourth code.
// Streams: codes, scales, biases.

//import place

const words_per_block: u32 = 6u;
const code_bits: u32 = 6u;
const code_interleave: u32 = 4u;

fn sixteen(at: u32) -> vec4<u32> {
    let w0 = word(at);
    let w1 = word(at + 1u);
    let w2 = word(at + 2u);
    let a = (w0 & 0xffu) | ((w0 >> 16u) & 0xff00u) | (w1 & 0xff0000u) | ((w2 << 16u) & 0xff000000u);
    let b = ((w0 >> 8u) & 0xffu) | ((w1 << 8u) & 0xff00u) | ((w1 >> 8u) & 0xff0000u) | ((w2 << 8u) & 0xff000000u);
    let c = ((w0 >> 16u) & 0xffu) | (w1 & 0xff00u) | ((w2 << 16u) & 0xff0000u) | (w2 & 0xff000000u);
    return vec4<u32>(
        a & 0x3f3f3f3fu,
        ((a >> 6u) & 0x03030303u) | ((b << 2u) & 0x3c3c3c3cu),
        ((b >> 4u) & 0x0f0f0f0fu) | ((c << 4u) & 0x30303030u),
        (c >> 2u) & 0x3f3f3f3fu,
    );
}

fn codes_at(at: u32) -> array<vec4<u32>, 2> {
    let a = sixteen(at);
    let b = sixteen(at + 3u);
    return array<vec4<u32>, 2>(vec4<u32>(a.x, b.x, a.y, b.y), vec4<u32>(a.z, b.z, a.w, b.w));
}
