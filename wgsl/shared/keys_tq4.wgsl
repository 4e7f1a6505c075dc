// Keys in 4 bits; queries are turned as they are.

//import cache_tq4

const keys_are_turned: bool = true;
alias KeyCell = u32;
override key_cells: u32 = dim / 8u + 1u;

fn key_quad(head: u32, i: u32) -> vec4<f32> {
    return quad_of_codes(keys[head + i / 2u] >> (16u * (i % 2u))) * bitcast<f32>(keys[head + level_words]);
}

fn key_cell(i: u32) -> u32 {
    return cell_of_4(0u, i);
}

fn kept_key(i: u32, zero: u32) -> vec4<f32> {
    return kept_of_4(0u, i);
}
