// Signs of columns as bytes of 255 where there is one: those of four are looked up in workgroup memory. Its 16 words are in
// banks of their own, so threads do not wait for each other, as they do for tables of more.

//import bytes_of_signs
//import team

var<workgroup> signs: array<u32, 16>;

fn keep_signs(local: u32) {
    for (var i = local; i < 16u; i += threads) {
        signs[i] = bytes_of_signs(i).x;
    }
}

// Of eight columns, the lowest bits.
fn eight_signs(bits: u32) -> vec2<u32> {
    return vec2<u32>(signs[bits & 15u], signs[(bits >> 4u) & 15u]);
}
