// Signs of 32 columns, a bit each, as bytes.

//import eight_signs

fn signs_of_block(bits: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(
        vec4<u32>(eight_signs(bits), eight_signs(bits >> 8u)),
        vec4<u32>(eight_signs(bits >> 16u), eight_signs(bits >> 24u)),
    );
}
