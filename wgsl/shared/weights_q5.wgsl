// 32 5-bit codes of a row: 5 words as one stream of bits, lowest first. 8 codes are 5 bytes, so the first to fifth bytes
// of four such runs are gathered, and one mask takes every eighth code.
// Streams: codes, scales, biases.

//import place

const words_per_block: u32 = 5u;
const code_bits: u32 = 5u;
const code_interleave: u32 = 8u;

fn codes_at(at: u32) -> array<vec4<u32>, 2> {
    let w0 = word(at);
    let w1 = word(at + 1u);
    let w2 = word(at + 2u);
    let w3 = word(at + 3u);
    let w4 = word(at + 4u);
    let a = (w0 & 0xffu) | (w1 & 0xff00u) | (w2 & 0xff0000u) | (w3 & 0xff000000u);
    let b = ((w0 >> 8u) & 0xffu) | ((w1 >> 8u) & 0xff00u) | ((w2 >> 8u) & 0xff0000u) | ((w4 << 24u) & 0xff000000u);
    let c = ((w0 >> 16u) & 0xffu) | ((w1 >> 16u) & 0xff00u) | ((w3 << 16u) & 0xff0000u) | ((w4 << 16u) & 0xff000000u);
    let d = ((w0 >> 24u) & 0xffu) | ((w2 << 8u) & 0xff00u) | ((w3 << 8u) & 0xff0000u) | ((w4 << 8u) & 0xff000000u);
    let e = (w1 & 0xffu) | (w2 & 0xff00u) | (w3 & 0xff0000u) | (w4 & 0xff000000u);
    return array<vec4<u32>, 2>(
        vec4<u32>(
            a & 0x1f1f1f1fu,
            ((a >> 5u) & 0x07070707u) | ((b << 3u) & 0x18181818u),
            (b >> 2u) & 0x1f1f1f1fu,
            ((b >> 7u) & 0x01010101u) | ((c << 1u) & 0x1e1e1e1eu),
        ),
        vec4<u32>(
            ((c >> 4u) & 0x0f0f0f0fu) | ((d << 4u) & 0x10101010u),
            (d >> 1u) & 0x1f1f1f1fu,
            ((d >> 6u) & 0x03030303u) | ((e << 2u) & 0x1c1c1c1cu),
            (e >> 3u) & 0x1f1f1f1fu,
        ),
    );
}
