// 32 2-bit codes of a row: 2 words, lowest bits first. One mask takes every fourth code.
// Streams: codes, scales, biases.

//import place

const words_per_block: u32 = 2u;
const code_bits: u32 = 2u;
const code_interleave: u32 = 4u;

fn codes_at(at: u32) -> array<vec4<u32>, 2> {
    let w = vec4<u32>(word(at), word(at + 1u), word(at) >> 2u, word(at + 1u) >> 2u);
    return array<vec4<u32>, 2>(w & vec4<u32>(0x03030303u), (w >> vec4<u32>(4u)) & vec4<u32>(0x03030303u));
}
