// A block of a row in f16, with one scale.

//import activations
//import halves

fn weight_halves(w: Weights) -> array<vec4<f16>, 8> {
    return halves(w.codes, w.scale, w.bias);
}
