// Signs of eight columns as bytes of 255 where there is one: looked up in workgroup memory.

//import bytes_of_signs
//import team

var<workgroup> signs: array<vec2<u32>, 128>;

fn keep_signs(local: u32) {
    for (var i = local; i < 128u; i += threads) {
        signs[i] = bytes_of_signs(with_eighth(i));
    }
}

// Of seven bits, and an eighth that makes their number even.
fn even_signs(bits: u32) -> vec2<u32> {
    return signs[bits & 127u];
}
