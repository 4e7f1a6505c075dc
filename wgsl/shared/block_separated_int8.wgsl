// Blocks of GGUF files whose codes stay integers, with one scale for 32 columns. Stream 0 is all of them.

//import activations
//import place
//import separate
//import separated

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    let w = separate(matrix, row, block);
    return Weights(w.codes, w.scale.x, w.bias.x);
}
