// Blocks of affine weights in f32: w = scale * code + bias. Streams: codes, scales, biases.

//import activations
//import place
//import scales
//import weights

// Codes in the order of columns. Word j of a block holds in byte b, with interleave i, column
// 4i (j % (8 / i)) + i b + j / (8 / i).
fn in_order(codes: array<vec4<u32>, 2>) -> array<vec4<f32>, 8> {
    let a = vec4<f32>(unpack4xU8(codes[0].x));
    let b = vec4<f32>(unpack4xU8(codes[0].y));
    let c = vec4<f32>(unpack4xU8(codes[0].z));
    let d = vec4<f32>(unpack4xU8(codes[0].w));
    let e = vec4<f32>(unpack4xU8(codes[1].x));
    let f = vec4<f32>(unpack4xU8(codes[1].y));
    let g = vec4<f32>(unpack4xU8(codes[1].z));
    let h = vec4<f32>(unpack4xU8(codes[1].w));
    if code_interleave == 1u {
        return array<vec4<f32>, 8>(a, b, c, d, e, f, g, h);
    }
    if code_interleave == 2u {
        return array<vec4<f32>, 8>(
            vec4<f32>(a.x, e.x, a.y, e.y), vec4<f32>(a.z, e.z, a.w, e.w),
            vec4<f32>(b.x, f.x, b.y, f.y), vec4<f32>(b.z, f.z, b.w, f.w),
            vec4<f32>(c.x, g.x, c.y, g.y), vec4<f32>(c.z, g.z, c.w, g.w),
            vec4<f32>(d.x, h.x, d.y, h.y), vec4<f32>(d.z, h.z, d.w, h.w),
        );
    }
    if code_interleave == 4u {
        return array<vec4<f32>, 8>(
            vec4<f32>(a.x, c.x, e.x, g.x), vec4<f32>(a.y, c.y, e.y, g.y),
            vec4<f32>(a.z, c.z, e.z, g.z), vec4<f32>(a.w, c.w, e.w, g.w),
            vec4<f32>(b.x, d.x, f.x, h.x), vec4<f32>(b.y, d.y, f.y, h.y),
            vec4<f32>(b.z, d.z, f.z, h.z), vec4<f32>(b.w, d.w, f.w, h.w),
        );
    }
    return array<vec4<f32>, 8>(
        vec4<f32>(a.x, b.x, c.x, d.x), vec4<f32>(e.x, f.x, g.x, h.x),
        vec4<f32>(a.y, b.y, c.y, d.y), vec4<f32>(e.y, f.y, g.y, h.y),
        vec4<f32>(a.z, b.z, c.z, d.z), vec4<f32>(e.z, f.z, g.z, h.z),
        vec4<f32>(a.w, b.w, c.w, d.w), vec4<f32>(e.w, f.w, g.w, h.w),
    );
}

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    let codes = in_order(codes_at(matrix.stream_0 + (row * params.blocks + block) * words_per_block));
    let index = row * (params.blocks / group_blocks) + block / group_blocks;
    let s = vec4<f32>(scale_at(matrix.stream_1, index));
    let b = vec4<f32>(scale_at(matrix.stream_2, index));
    return Weights(array<vec4<f32>, 8>(
        fma(codes[0], s, b), fma(codes[1], s, b), fma(codes[2], s, b), fma(codes[3], s, b),
        fma(codes[4], s, b), fma(codes[5], s, b), fma(codes[6], s, b), fma(codes[7], s, b),
    ));
}
