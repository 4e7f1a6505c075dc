// What one token gives a value head of a linear layer: convolved channels, and the inputs of decay and beta. After
// shared/conv_input.wgsl, in a shader with `weight: array<f32>`.

//import conv_input
//import sigmoid

// Adds four taps; those past the last weigh nothing.
fn add_taps(head: u32, c: u32, channel: u32, t: u32, first: u32, sum: f32) -> f32 {
    let j = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(taps - 1u));
    let u = vec4<f32>(
        input(head, c, channel, t + j.x), input(head, c, channel, t + j.y),
        input(head, c, channel, t + j.z), input(head, c, channel, t + j.w),
    );
    let row = channel * taps;
    var w = vec4<f32>(weight[row + j.x], weight[row + j.y], weight[row + j.z], weight[row + j.w]);
    w = select(w, vec4<f32>(), vec4<u32>(first, first + 1u, first + 2u, first + 3u) >= vec4<u32>(taps));
    return fma(w.w, u.w, fma(w.z, u.z, fma(w.y, u.y, fma(w.x, u.x, sum))));
}

// Channel `c` of a value head at token `t` of the step.
fn convolved(head: u32, c: u32, t: u32) -> f32 {
    let channel = channel_of(head, c);
    var sum = add_taps(head, c, channel, t, 0u, 0.0);
    if taps > 4u {
        sum = add_taps(head, c, channel, t, 4u, sum);
    }
    return silu(sum);
}

// ln(1 + e) for 0 <= e <= 1 by the series of the area tangent: no cancellation for small e
fn ln_1p(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let t = s * s;
    return 2.0 * s * (1.0 + t * (1.0 / 3.0 + t * (1.0 / 5.0 + t * (1.0 / 7.0 + t * (1.0 / 9.0 + t * (1.0 / 11.0 + t / 13.0))))));
}

fn softplus(v: f32) -> f32 {
    return max(v, 0.0) + ln_1p(exp(-abs(v)));
}
