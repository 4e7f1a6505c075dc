// Signs of columns as bytes of 255 where there is one: computed, in kernels whose workgroup memory is for tiles.

//import bytes_of_signs

// Of eight columns, the lowest bits.
fn eight_signs(bits: u32) -> vec2<u32> {
    return bytes_of_signs(bits & 255u);
}
