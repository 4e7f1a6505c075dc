// MXFP4: an exponent, 16 bytes: numbers of 4 bits in the low halves, then in the high halves, looked up doubled.

//import bytes
//import codebook
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 17u;

fn separate(at: u32, block: u32) -> Separated {
    let bytes = words_at(at + 1u);
    let a = four_pairs(bytes.x);
    let b = four_pairs(bytes.y);
    let c = four_pairs(bytes.z);
    let d = four_pairs(bytes.w);
    let exponent = byte_at(at);
    let half = bitcast<f32>(select((exponent - 1u) << 23u, 0x00200000u << min(exponent, 1u), exponent < 2u));
    return with_scale(vec4<u32>(a.x, b.x, c.x, d.x), vec4<u32>(a.y, b.y, c.y, d.y), half);
}
