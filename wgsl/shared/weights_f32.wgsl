// 32 weights of a row as f32: 32 words.
// Streams: the weights.

//import activations

const words_per_block: u32 = 32u;

fn four(at: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(weights[at]);
}

fn unpack(at: u32) -> Weights {
    return Weights(array<vec4<f32>, 8>(four(at), four(at + 1u), four(at + 2u), four(at + 3u), four(at + 4u), four(at + 5u), four(at + 6u), four(at + 7u)));
}
