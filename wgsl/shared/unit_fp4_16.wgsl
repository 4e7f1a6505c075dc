// What a thread multiplies at a time: 32 numbers of 4 bits with a scale for each 16.

//import activations
//import dot_4_bits
//import place
//import separate_numbers_16

const unit_blocks: u32 = 1u;

alias Unit = Activations;

fn load_unit(row: u32, unit: u32) -> Unit {
    return load(row, unit);
}

fn dot_unit(matrix: Place, row: u32, unit: u32, x: Unit) -> f32 {
    let sums = dot_4_bits_by_16(numbers_at(matrix, row, unit), x.codes);
    let products = scales_at(matrix, row, unit) * (sums * x.scale);
    return products.x + products.y;
}
