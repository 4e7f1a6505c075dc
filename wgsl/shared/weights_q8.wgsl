// 32 8-bit codes of a row: 8 words, lowest byte first.
// Streams: codes, scales, biases.
const words_per_block: u32 = 8u;
const code_bits: u32 = 8u;
const code_interleave: u32 = 1u;

fn codes_at(at: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(weights[at >> 2u], weights[(at >> 2u) + 1u]);
}
