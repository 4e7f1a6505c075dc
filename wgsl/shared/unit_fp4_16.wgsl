// What a thread multiplies at a time: 32 numbers of 4 bits with a scale for each 16.

//import activations
//import dot_16
//import numbers_of_4_bits
//import place
//import separate_numbers_16

const unit_blocks: u32 = 1u;

alias Unit = Activations;

fn load_unit(row: u32, unit: u32) -> Unit {
    return load(row, unit);
}

fn dot_unit(matrix: Place, row: u32, unit: u32, x: Unit) -> f32 {
    let w = complements_of_4_bits(numbers_at(matrix, row, unit));
    let a = w.codes[0];
    let b = w.codes[1];
    let first = dot_16(vec4<u32>(a.xy, b.xy), x.codes[0]) + dot_16(vec4<u32>(w.ones[0].xy, w.ones[1].xy), x.codes[0]);
    let second = dot_16(vec4<u32>(a.zw, b.zw), x.codes[1]) + dot_16(vec4<u32>(w.ones[0].zw, w.ones[1].zw), x.codes[1]);
    let products = scales_at(matrix, row, unit) * (vec2<f32>(f32(first), f32(second)) * x.scale);
    return products.x + products.y;
}
