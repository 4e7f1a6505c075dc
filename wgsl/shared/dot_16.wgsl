// Products of 16 codes of 8 bits: two sums that do not wait for each other.

fn dot_16(w: vec4<u32>, x: vec4<u32>) -> i32 {
    let acc = dot4I8Packed(w.x, x.x) + dot4I8Packed(w.y, x.y);
    return acc + dot4I8Packed(w.z, x.z) + dot4I8Packed(w.w, x.w);
}
