// Entries are looked up where the device has them: kernels whose workgroup memory is for tiles.

//import codebook

fn keep_table(local: u32) {}

// The four values of entry `index`, where entries have as many.
fn four_values(index: u32) -> u32 {
    return codebook[index / 2u][index & 1u];
}

// The eight values of entry `index`.
fn eight_values(index: u32) -> vec2<u32> {
    return codebook[index];
}
