// Blocks of FP8 in f32.

//import activations
//import numbers_fp8
//import numbers_of_8_bits
//import place

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    return Weights(columns_e4m3(numbers_of(matrix, row, block), scale_of(matrix, row, block)));
}
