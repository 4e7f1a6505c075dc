// 32 4-bit codes of a row: 4 words, lowest bits first. One mask takes every other code.
// Streams: codes, scales, biases.
const words_per_block: u32 = 4u;
const code_bits: u32 = 4u;
const code_interleave: u32 = 2u;

fn codes_at(at: u32) -> array<vec4<u32>, 2> {
    let w = weights[at >> 2u];
    return array<vec4<u32>, 2>(w & vec4<u32>(0x0f0f0f0fu), (w >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu));
}
