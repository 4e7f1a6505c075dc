// Signs of eight columns, a bit each, as bytes of 255 where there is one.

fn bytes_of_signs(bits: u32) -> vec2<u32> {
    let low = ((bits & 0xfu) * 0x00204081u) & 0x01010101u;
    let high = ((bits >> 4u) * 0x00204081u) & 0x01010101u;
    return vec2<u32>(low, high) * 255u;
}
