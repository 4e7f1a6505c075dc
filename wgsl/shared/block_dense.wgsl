// Blocks of dense weights.

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    return unpack((matrix.codes + (row * params.blocks + block) * words_per_block) >> 2u);
}
