// What a thread multiplies at a time: a block of 32 columns.

//import activations
//import block
//import place

const unit_blocks: u32 = 1u;

alias Unit = Activations;

fn load_unit(row: u32, unit: u32) -> Unit {
    return load(row, unit);
}

fn dot_unit(matrix: Place, row: u32, unit: u32, x: Unit) -> f32 {
    return dot_block(block_of(matrix, row, unit), x);
}
