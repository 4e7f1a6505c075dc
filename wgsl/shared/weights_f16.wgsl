// 32 weights of a row as f16: 16 words, two weights each, the lower half first.
// Streams: the weights.

//import activations

const words_per_block: u32 = 16u;

fn eight(at: u32) -> array<vec4<f32>, 2> {
    let w = weights[at];
    return array<vec4<f32>, 2>(
        vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
        vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)),
    );
}

fn unpack(at: u32) -> Weights {
    let a = eight(at);
    let b = eight(at + 1u);
    let c = eight(at + 2u);
    let d = eight(at + 3u);
    return Weights(array<vec4<f32>, 8>(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]));
}
