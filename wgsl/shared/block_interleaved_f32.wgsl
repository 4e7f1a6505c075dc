// Signed codes of which a word holds every second of eight columns, in f32: the even ones, then the odd ones.

//import activations
//import place
//import separate

fn eight(even: u32, odd: u32, scale: f32) -> array<vec4<f32>, 2> {
    let a = vec4<f32>(unpack4xI8(even)) * scale;
    let b = vec4<f32>(unpack4xI8(odd)) * scale;
    return array<vec4<f32>, 2>(vec4<f32>(a.x, b.x, a.y, b.y), vec4<f32>(a.z, b.z, a.w, b.w));
}

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    let w = separate(matrix, row, block);
    let a = eight(w.codes[0].x, w.codes[1].x, w.scale.x);
    let b = eight(w.codes[0].y, w.codes[1].y, w.scale.x);
    let c = eight(w.codes[0].z, w.codes[1].z, w.scale.x);
    let d = eight(w.codes[0].w, w.codes[1].w, w.scale.x);
    return Weights(array<vec4<f32>, 8>(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]));
}
