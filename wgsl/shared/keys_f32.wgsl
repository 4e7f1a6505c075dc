// Keys as they are; see shaders/cached.rs for what a form of keys declares.

//import own

alias KeyCell = vec4<f32>;
override key_cells: u32 = dim / 4u; // of a head

// Four elements of the head that begins at cell `head`.
fn key_quad(head: u32, i: u32) -> vec4<f32> {
    return keys[head + i];
}

// Cell `i` of the own key.
fn key_cell(i: u32) -> vec4<f32> {
    return own[i];
}

// Four elements of the own key as they will be read; `zero` is 0, which no driver knows.
fn kept_key(i: u32, zero: u32) -> vec4<f32> {
    return own[i];
}
