// A block of a row and of activations in f16, the row with one scale.

//import activations
//import halves

fn weight_halves(w: Weights) -> array<vec4<f16>, 8> {
    return halves(w.codes, w.scale, w.bias);
}

fn activation_halves(x: Activations) -> array<vec4<f16>, 8> {
    return halves(x.codes, x.scale, 0.0);
}
