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
    let even = select(w.codes[0], vec4<u32>(w.codes[0].xy, w.codes[1].xy), sixteens);
    let odd = select(w.codes[1], vec4<u32>(w.codes[0].zw, w.codes[1].zw), sixteens);
    let a = eight(even.x, odd.x, w.scale.x);
    let b = eight(even.y, odd.y, w.scale.x);
    let c = eight(even.z, odd.z, w.scale.y);
    let d = eight(even.w, odd.w, w.scale.y);
    return Weights(array<vec4<f32>, 8>(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]));
}
