// Four elements of a cache in f16.

//import own

// Own elements as they will be read. Some drivers take what is packed and unpacked at once for what it was before (an H200's
// does): `zero` is 0, which they cannot know.
fn kept_halves(i: u32, zero: u32) -> vec4<f32> {
    return quad_of_halves(halves_of_own(i) | vec2<u32>(zero));
}

fn quad_of_halves(halves: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
}

// Larger numbers would be infinite; what is no number stays none, which `clamp` does not promise.
fn halves_of_own(i: u32) -> vec2<u32> {
    let within = clamp(own[i], vec4<f32>(-65504.0), vec4<f32>(65504.0));
    let size = bitcast<vec4<u32>>(own[i]) & vec4<u32>(0x7fffffffu);
    let v = select(within, own[i], size > vec4<u32>(0x7f800000u));
    return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
}
