// Values in 8 bits.

//import cache_q8

alias ValueCell = u32;
override value_cells: u32 = dim / 4u + (dim + 63u) / 64u;

fn value_quad(head: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(values[head + i])) * scale_in(values[head + scale_word(i)], i);
}

fn value_cell(i: u32) -> u32 {
    return cell_of_8(64u, i);
}

fn kept_value(i: u32, zero: u32) -> vec4<f32> {
    return kept_of_8(64u, i);
}
