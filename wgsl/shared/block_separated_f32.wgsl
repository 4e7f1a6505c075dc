// Blocks of GGUF files in f32: w = scale * code + bias. Stream 0 is all of them.

//import activations
//import place
//import separate
//import separated

fn columns_of(codes: u32, scale: f32, bias: f32) -> vec4<f32> {
    return fma(vec4<f32>(unpack4xI8(codes)), vec4<f32>(scale), vec4<f32>(bias));
}

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    let w = separate(matrix, row, block);
    let a = w.codes[0];
    let b = w.codes[1];
    return Weights(array<vec4<f32>, 8>(
        columns_of(a.x, w.scale.x, w.bias.x), columns_of(a.y, w.scale.x, w.bias.x),
        columns_of(a.z, w.scale.x, w.bias.x), columns_of(a.w, w.scale.x, w.bias.x),
        columns_of(b.x, w.scale.y, w.bias.y), columns_of(b.y, w.scale.y, w.bias.y),
        columns_of(b.z, w.scale.y, w.bias.y), columns_of(b.w, w.scale.y, w.bias.y),
    ));
}
