// Dense weights.

fn block_of(matrix: Place, row: u32, block: u32, blocks: u32) -> array<vec4<f32>, 8> {
    return unpack(matrix.codes + (row * blocks + block) * words_per_block);
}
