// Four times 32 columns of NVFP4 are two blocks of the file, 18 words.

//import activations
//import dot_4_bits
//import four_blocks
//import place
//import separate_numbers_16
//import words_in_a_row

fn dot_numbers(scales: vec2<f32>, numbers: vec4<u32>, x: Activations) -> f32 {
    let products = scales * (dot_4_bits_by_16(numbers, x.codes) * x.scale);
    return products.x + products.y;
}

fn dot_unit(matrix: Place, row: u32, unit: u32, x: Unit) -> f32 {
    if unit_blocks == 1u {
        return dot_numbers(scales_at(matrix, row, unit), numbers_at(matrix, row, unit), x.a);
    }
    let w = words_from_even(matrix.stream_0 + (row * (params.blocks / 4u) + unit) * 18u);
    let s = half_of_scales(w.a.x);
    let t = half_of_scales(w.c.y);
    let first = dot_numbers(s.xy, vec4<u32>(w.a.yzw, w.b.x), x.a) + dot_numbers(s.zw, vec4<u32>(w.b.yzw, w.c.x), x.b);
    let second = dot_numbers(t.xy, vec4<u32>(w.c.zw, w.d.xy), x.c) + dot_numbers(t.zw, vec4<u32>(w.d.zw, w.e), x.d);
    return first + second;
}
