// Inputs of the convolution of a linear layer: those of the step in `x`, those before it in `conv`. For shaders with the
// overrides taps, key_dim, value_dim and side_by_side, and `params` of the same names.

// Channel `c` of a value head (q | k | v) among those of all heads.
fn channel_of(head: u32, c: u32) -> u32 {
    let key_head = head / side_by_side % params.key_heads;
    let keys = params.key_heads * key_dim;
    if c < 2u * key_dim {
        return select(key_head * key_dim + c, keys + key_head * key_dim + c - key_dim, c >= key_dim);
    }
    return 2u * keys + head * value_dim + c - 2u * key_dim;
}

// Age counts from the oldest input that is kept. Both places are read, so that no read waits for a branch.
fn input(head: u32, c: u32, channel: u32, age: u32) -> f32 {
    let kept = conv[(head * (taps - 1u) + min(age, taps - 2u)) * params.conv_stride + c];
    let given = x[params.u_offset + (max(age, taps - 1u) - (taps - 1u)) * params.x_stride + channel];
    return select(given, kept, age < taps - 1u);
}
