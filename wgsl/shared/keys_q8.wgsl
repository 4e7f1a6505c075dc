// Keys in 8 bits.

//import cache_q8

const keys_are_turned: bool = false;
alias KeyCell = u32;
override key_cells: u32 = dim / 4u + (dim + 63u) / 64u;

fn key_quad(head: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(keys[head + i])) * scale_in(keys[head + scale_word(i)], i);
}

fn key_cell(i: u32) -> u32 {
    return cell_of_8(0u, i);
}

fn kept_key(i: u32, zero: u32) -> vec4<f32> {
    return kept_of_8(0u, i);
}
