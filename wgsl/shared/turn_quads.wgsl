// Turns heads that a workgroup has in `own`: some signs change, then a Walsh-Hadamard transform of each tile, whose
// elements are the largest power of two that divides those of a head; back in the other order. The same signs as in
// flashflood-formats.

//import own

// Quad `i` of a head with some signs changed.
fn with_signs(v: vec4<f32>, i: u32) -> vec4<f32> {
    // not constants of the module: naga 30 refuses those beside an array whose size is an override
    let low = vec4<u32>(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u);
    let high = vec4<u32>(0xa4093822u, 0x299f31d0u, 0x082efa98u, 0xec4e6c89u);
    let word = i / 8u;
    let bits = select(low[word % 4u], high[word % 4u], word >= 4u) >> (4u * (i % 8u));
    return select(v, -v, (vec4<u32>(bits) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>());
}

// `q` with the sign that it has in an element of a transform: `both` are the bits that their two indices share.
fn of_parity(q: vec4<f32>, both: u32) -> vec4<f32> {
    return select(q, -q, (countOneBits(both) & 1u) == 1u);
}

// All threads call it together; those with `is_turned` have a quad of a head of `dim4` quads each, at `local`, and the
// thread of each quad has set it. No other thread may read it before the next barrier.
fn turn_quads(local: u32, is_turned: bool, dim4: u32, back: bool) {
    let tile4 = dim4 & (~dim4 + 1u);
    var v = vec4<f32>();
    if is_turned {
        v = own[local];
        if !back {
            v = with_signs(v, local % 64u);
        }
        v = vec4<f32>(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
        own[local] = vec4<f32>(v.xy + v.zw, v.xy - v.zw);
    }
    workgroupBarrier();
    // neighbours first, then those that are 8 apart
    let near = min(tile4, 8u);
    v = vec4<f32>();
    if is_turned {
        for (var j = 0u; j < near; j++) {
            v += of_parity(own[(local & ~(near - 1u)) | j], j & local);
        }
    }
    workgroupBarrier();
    if is_turned {
        own[local] = v;
    }
    workgroupBarrier();
    v = vec4<f32>();
    if is_turned {
        for (var j = 0u; j < tile4 / near; j++) {
            v += of_parity(own[(local & ~(tile4 - 1u)) | (j * near) | (local % near)], j & (local / near));
        }
    }
    workgroupBarrier();
    if is_turned {
        v *= 1.0 / sqrt(4.0 * f32(tile4));
        if back {
            v = with_signs(v, local % 64u);
        }
        own[local] = v;
    }
}
