// Blocks of FP8 as they are.

//import activations
//import numbers_fp8
//import place

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    return Weights(numbers_of(matrix, row, block), scale_of(matrix, row, block));
}
