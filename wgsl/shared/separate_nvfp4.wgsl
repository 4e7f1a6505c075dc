// NVFP4: for each 16 columns a scale of 8 bits (E4M3), then 8 bytes each: numbers of 4 bits in the low halves, then in the high
// halves.

//import bytes
//import numbers_of_4_bits
//import place
//import separated

const block_groups: u32 = 2u; // of 32 columns
const block_bytes: u32 = 36u;

// Half of a scale; what would be NaN is 0.
fn half_of_e4m3(byte: u32) -> f32 {
    let exponent = (byte >> 3u) & 15u;
    let mantissa = f32(byte & 7u);
    let normal = fma(mantissa, 0.125, 1.0) * bitcast<f32>((exponent + 119u) << 23u);
    let number = select(normal, mantissa * 0.0009765625, exponent == 0u);
    return select(number, 0.0, byte == 0x7fu);
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 1u;
    let scales = word_at(at) >> (16u * part);
    let bytes = words_at(at + 4u + 16u * part);
    let a = numbers_of_4_bits(low(bytes));
    let b = numbers_of_4_bits(high(bytes));
    return Separated(
        array<vec4<u32>, 2>(vec4<u32>(a.xy, b.xy), vec4<u32>(a.zw, b.zw)),
        vec2<f32>(half_of_e4m3(scales & 0xffu), half_of_e4m3((scales >> 8u) & 0xffu)),
        vec2<f32>(),
    );
}
