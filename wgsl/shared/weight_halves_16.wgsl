// A block of a row and of activations in f16, the row with a scale for each 16 columns.

//import activations
//import halves

fn weight_halves(w: Weights) -> array<vec4<f16>, 8> {
    let a = w.codes[0];
    let b = w.codes[1];
    return array<vec4<f16>, 8>(
        quad(a.x, w.scale.x, w.bias.x), quad(a.y, w.scale.x, w.bias.x),
        quad(a.z, w.scale.x, w.bias.x), quad(a.w, w.scale.x, w.bias.x),
        quad(b.x, w.scale.y, w.bias.y), quad(b.y, w.scale.y, w.bias.y),
        quad(b.z, w.scale.y, w.bias.y), quad(b.w, w.scale.y, w.bias.y),
    );
}

fn activation_halves(x: Activations) -> array<vec4<f16>, 8> {
    return halves(x.codes, x.scale, 0.0);
}
