// What codes of 32 columns are multiplied with, and what is added. The first 16 bytes of a block of Q4_K or Q5_K are two f16,
// then four scales, four minima, and the lower halves of four more of both, whose upper bits are those of the first.
fn scale_and_bias(head: vec4<u32>, part: u32) -> vec2<f32> {
    let shift = 8u * (part & 3u);
    let scale = head.y >> shift;
    let minimum = head.z >> shift;
    let more = head.w >> shift;
    let last = vec2<u32>((more & 15u) | ((scale >> 2u) & 0x30u), ((more >> 4u) & 15u) | ((minimum >> 2u) & 0x30u));
    let found = select(last, vec2<u32>(scale & 63u, minimum & 63u), part < 4u);
    return unpack2x16float(head.x) * vec2<f32>(found) * vec2<f32>(1.0, -1.0);
}
