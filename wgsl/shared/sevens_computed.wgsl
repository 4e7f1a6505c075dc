// Signs of eight columns as bytes of 255 where there is one, from the seven that are stored: computed.

//import bytes_of_signs
//import even_signs

// Of the lowest seven bits.
fn seven_signs(bits: u32) -> vec2<u32> {
    return bytes_of_signs(with_eighths(bits & 127u));
}
