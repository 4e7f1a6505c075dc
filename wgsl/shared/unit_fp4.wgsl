// What a thread multiplies at a time: 32 numbers of 4 bits with one scale.

//import activations
//import dot_16
//import numbers_of_4_bits
//import place
//import separate_numbers

const unit_blocks: u32 = 1u;

alias Unit = Activations;

fn load_unit(row: u32, unit: u32) -> Unit {
    return load(row, unit);
}

fn dot_unit(matrix: Place, row: u32, unit: u32, x: Unit) -> f32 {
    let w = complements_of_4_bits(numbers_at(matrix, row, unit));
    let codes = dot_16(w.codes[0], x.codes[0]) + dot_16(w.codes[1], x.codes[1]);
    let ones = dot_16(w.ones[0], x.codes[0]) + dot_16(w.ones[1], x.codes[1]);
    return scale_at(matrix, row, unit) * (f32(codes + ones) * x.scale);
}
