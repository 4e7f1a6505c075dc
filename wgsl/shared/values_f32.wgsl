// Values as they are.

//import own

alias ValueCell = vec4<f32>;
override value_cells: u32 = dim / 4u; // of a head

fn value_quad(head: u32, i: u32) -> vec4<f32> {
    return values[head + i];
}

fn value_cell(i: u32) -> vec4<f32> {
    return own[64u + i];
}

fn kept_value(i: u32, zero: u32) -> vec4<f32> {
    return own[64u + i];
}
