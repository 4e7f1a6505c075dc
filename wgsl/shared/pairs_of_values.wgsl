// Values of 4-bit codes, two a byte.

//import four_values

// Values of four bytes' low halves, and of their high halves.
fn four_pairs(bytes: u32) -> vec2<u32> {
    let a = four_values(bytes & 0xffu);
    let b = four_values((bytes >> 8u) & 0xffu);
    let c = four_values((bytes >> 16u) & 0xffu);
    let d = four_values(bytes >> 24u);
    return vec2<u32>(
        (a & 0xffu) | ((b & 0xffu) << 8u) | ((c & 0xffu) << 16u) | (d << 24u),
        (a >> 8u) | (b & 0xff00u) | ((c & 0xff00u) << 8u) | ((d & 0xff00u) << 16u),
    );
}
