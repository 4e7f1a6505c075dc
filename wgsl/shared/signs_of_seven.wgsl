// Signs of eight columns as bytes of 255 where there is one, from the seven that are stored: looked up in workgroup memory.
// For grids of 2 bits this is quicker than the 16 words of signs_of_four.wgsl (H200, IQ2_XS: 37 % of the bandwidth and 32).

//import bytes_of_signs
//import even_signs
//import team

var<workgroup> signs: array<vec2<u32>, 128>;

fn keep_signs(local: u32) {
    for (var i = local; i < 128u; i += threads) {
        signs[i] = bytes_of_signs(with_eighths(i));
    }
}

// Of the lowest seven bits.
fn seven_signs(bits: u32) -> vec2<u32> {
    return signs[bits & 127u];
}
