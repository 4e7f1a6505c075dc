// Scale and minimum of 6 bits each for 32 columns, of the first 16 bytes of a block of Q4_K or Q5_K: two f16, then four
// scales, four minima, and the lower halves of four more of both, whose upper bits are those of the first.
fn scale_and_minimum(head: vec4<u32>, part: u32) -> vec2<u32> {
    let shift = 8u * (part & 3u);
    let scale = head.y >> shift;
    let minimum = head.z >> shift;
    let more = head.w >> shift;
    let last = vec2<u32>((more & 15u) | ((scale >> 2u) & 0x30u), ((more >> 4u) & 15u) | ((minimum >> 2u) & 0x30u));
    return select(last, vec2<u32>(scale & 63u, minimum & 63u), part < 4u);
}
