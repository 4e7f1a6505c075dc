// Blocks of affine weights whose codes stay integers: w = scale * code + bias. Streams: codes, scales, biases.

//import activations
//import place
//import scales
//import weights

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    var codes = codes_at(matrix.stream_0 + (row * params.blocks + block) * words_per_block);
    let index = row * (params.blocks / group_blocks) + block / group_blocks;
    let scale = scale_at(matrix.stream_1, index);
    var bias = scale_at(matrix.stream_2, index);
    if code_bits == 8u {
        // the dot product is of signed bytes: code - 128, and 128 scales more in the bias
        codes[0] ^= vec4<u32>(0x80808080u);
        codes[1] ^= vec4<u32>(0x80808080u);
        bias = fma(128.0, scale, bias);
    }
    return Weights(codes, scale, bias);
}
