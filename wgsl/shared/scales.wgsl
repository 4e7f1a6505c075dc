// Scales and biases of affine formats: two to a word (bf16 or f16), or one (f32).

//import place

override scale_type: u32 = 0u; // 0 bf16, 1 f16, 2 f32
override group_blocks: u32 = 2u; // blocks of 32 columns that share a scale: 1, 2 or 4

fn scale_at(base: u32, index: u32) -> f32 {
    if scale_type == 2u {
        return bitcast<f32>(word(base + index));
    }
    let both = word(base + index / 2u);
    let odd = (index & 1u) == 1u;
    if scale_type == 1u {
        let pair = unpack2x16float(both);
        return select(pair.x, pair.y, odd);
    }
    return bitcast<f32>(select(both << 16u, both & 0xffff0000u, odd));
}
