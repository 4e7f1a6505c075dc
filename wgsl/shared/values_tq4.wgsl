// Values in 4 bits; what they come to is turned back.

//import cache_tq4

alias ValueCell = u32;
override value_cells: u32 = dim / 8u + 1u;

fn value_quad(head: u32, i: u32) -> vec4<f32> {
    return quad_of_codes(values[head + i / 2u] >> (16u * (i % 2u))) * bitcast<f32>(values[head + level_words]);
}

fn value_cell(i: u32) -> u32 {
    return cell_of_4(64u, i);
}

fn kept_value(i: u32, zero: u32) -> vec4<f32> {
    return kept_of_4(64u, i);
}
