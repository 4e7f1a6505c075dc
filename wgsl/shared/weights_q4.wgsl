// 32 4-bit codes of a row: 4 words, lowest bits first. Even codes and odd codes are unpacked as bytes.
const words_per_block: u32 = 4u;

fn eight(word: u32) -> array<vec4<f32>, 2> {
    let even = vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
    let odd = vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu));
    return array<vec4<f32>, 2>(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
}

fn unpack(at: u32) -> array<vec4<f32>, 8> {
    let a = eight(weights[at]);
    let b = eight(weights[at + 1u]);
    let c = eight(weights[at + 2u]);
    let d = eight(weights[at + 3u]);
    return array<vec4<f32>, 8>(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]);
}
