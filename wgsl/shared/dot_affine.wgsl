// Affine weights: w = scale * code + bias.

fn block_of(matrix: Place, row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
    let codes = unpack(matrix.codes + (row * blocks + block) * words_per_block);
    let index = row * (blocks / group_blocks) + block / group_blocks;
    let s = vec4<f32>(scale_at(matrix.scales, index));
    let b = vec4<f32>(scale_at(matrix.biases, index));
    return array<vec4<f32>, 8>(
        fma(codes[0], s, b), fma(codes[1], s, b), fma(codes[2], s, b), fma(codes[3], s, b),
        fma(codes[4], s, b), fma(codes[5], s, b), fma(codes[6], s, b), fma(codes[7], s, b),
    );
}
