// 32 3-bit codes of a row: 3 words as one stream of bits, lowest first. 8 codes are 3 bytes, so the first, second and
// third bytes of four such runs are gathered, and one mask takes every eighth code.
// Streams: codes, scales, biases.

//import place

const words_per_block: u32 = 3u;
const code_bits: u32 = 3u;
const code_interleave: u32 = 8u;

fn codes_at(at: u32) -> array<vec4<u32>, 2> {
    let w0 = word(at);
    let w1 = word(at + 1u);
    let w2 = word(at + 2u);
    let a = (w0 & 0xffu) | ((w0 >> 16u) & 0xff00u) | (w1 & 0xff0000u) | ((w2 << 16u) & 0xff000000u);
    let b = ((w0 >> 8u) & 0xffu) | ((w1 << 8u) & 0xff00u) | ((w1 >> 8u) & 0xff0000u) | ((w2 << 8u) & 0xff000000u);
    let c = ((w0 >> 16u) & 0xffu) | (w1 & 0xff00u) | ((w2 << 16u) & 0xff0000u) | (w2 & 0xff000000u);
    return array<vec4<u32>, 2>(
        vec4<u32>(
            a & 0x07070707u,
            (a >> 3u) & 0x07070707u,
            ((a >> 6u) & 0x03030303u) | ((b << 2u) & 0x04040404u),
            (b >> 1u) & 0x07070707u,
        ),
        vec4<u32>(
            (b >> 4u) & 0x07070707u,
            ((b >> 7u) & 0x01010101u) | ((c << 1u) & 0x06060606u),
            (c >> 2u) & 0x07070707u,
            (c >> 5u) & 0x07070707u,
        ),
    );
}
