// What a thread multiplies at a time: 32 numbers of 4 bits with one scale.

//import activations
//import dot_4_bits
//import place
//import separate_numbers

const unit_blocks: u32 = 1u;

alias Unit = Activations;

fn load_unit(row: u32, unit: u32) -> Unit {
    return load(row, unit);
}

fn dot_unit(matrix: Place, row: u32, unit: u32, x: Unit) -> f32 {
    return scale_at(matrix, row, unit) * (f32(dot_4_bits(numbers_at(matrix, row, unit), x.codes)) * x.scale);
}
