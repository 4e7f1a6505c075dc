// Values in f16.

//import cache_f16

alias ValueCell = vec2<u32>;
override value_cells: u32 = dim / 4u;

fn value_quad(head: u32, i: u32) -> vec4<f32> {
    return quad_of_halves(values[head + i]);
}

fn value_cell(i: u32) -> vec2<u32> {
    return halves_of_own(64u + i);
}

fn kept_value(i: u32, zero: u32) -> vec4<f32> {
    return kept_halves(64u + i, zero);
}
