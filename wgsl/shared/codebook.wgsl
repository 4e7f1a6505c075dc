// The table that codes are looked up in, one a device. Its binding is behind those of every product.

@group(0) @binding(5) var<storage, read> codebook: array<vec2<u32>>;

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

// The four values of entry `index`, where entries have as many.
fn four_values(index: u32) -> u32 {
    return codebook[index / 2u][index & 1u];
}

// The eight values of entry `index`.
fn eight_values(index: u32) -> vec2<u32> {
    return codebook[index];
}
