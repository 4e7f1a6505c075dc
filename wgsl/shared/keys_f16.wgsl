// Keys in f16.

//import cache_f16

alias KeyCell = vec2<u32>;
override key_cells: u32 = dim / 4u;

fn key_quad(head: u32, i: u32) -> vec4<f32> {
    return quad_of_halves(keys[head + i]);
}

fn key_cell(i: u32) -> vec2<u32> {
    return halves_of_own(i);
}

fn kept_key(i: u32, zero: u32) -> vec4<f32> {
    return kept_halves(i, zero);
}
