// Blocks of dense weights: stream 0 is all of them.

//import activations
//import place
//import weights

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    return unpack((matrix.stream_0 + (row * params.blocks + block) * words_per_block) >> 2u);
}
