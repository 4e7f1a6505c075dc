// A block of a row and of activations in f16, from columns in f32: of FP8, and of activations in f32. What is too large for f16
// becomes infinite, and is seen; what is below 6e-8, a hundred-thousandth of usual scales, becomes 0.

//import activations

enable f16;

fn all_halves(columns: array<vec4<f32>, 8>) -> array<vec4<f16>, 8> {
    return array<vec4<f16>, 8>(
        vec4<f16>(columns[0]), vec4<f16>(columns[1]), vec4<f16>(columns[2]), vec4<f16>(columns[3]),
        vec4<f16>(columns[4]), vec4<f16>(columns[5]), vec4<f16>(columns[6]), vec4<f16>(columns[7]),
    );
}

fn weight_halves(w: Weights) -> array<vec4<f16>, 8> {
    return all_halves(row_columns(w));
}

fn activation_halves(x: Activations) -> array<vec4<f16>, 8> {
    return all_halves(token_columns(x));
}
