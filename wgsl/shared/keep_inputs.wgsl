// Keeps the last inputs of a value head for the next step, by `threads_of_head` threads. After shared/conv_input.wgsl, in
// a shader that writes `conv`.

//import conv_input

fn keep_inputs(head: u32, local: u32, threads_of_head: u32) {
    for (var c = local; c < 2u * key_dim + value_dim; c += threads_of_head) {
        let channel = channel_of(head, c);
        // in ascending order: an entry is read before it is overwritten
        for (var j = 0u; j < taps - 1u; j++) {
            conv[(head * (taps - 1u) + j) * params.conv_stride + c] = input(head, c, channel, params.tokens + j);
        }
    }
}
