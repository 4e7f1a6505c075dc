// Signs of eight columns as bytes of 255 where there is one: computed, in kernels whose workgroup memory is for tiles.

//import bytes_of_signs

// Of eight bits.
fn eight_signs(bits: u32) -> vec2<u32> {
    return bytes_of_signs(bits & 255u);
}

// Of seven bits, and an eighth that makes their number even.
fn even_signs(bits: u32) -> vec2<u32> {
    return bytes_of_signs(with_eighth(bits & 127u));
}
