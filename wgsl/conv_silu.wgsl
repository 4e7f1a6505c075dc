// Causal depthwise convolution with SiLU over the tokens of a step, one thread per channel.
// out[t, c] = silu(sum_j weight[c, j] * u[t - taps + 1 + j, c]); positions before the step come from the state.
// The state keeps the last taps - 1 inputs, before convolution.

struct Params {
    channels: u32,
    taps: u32,
    tokens: u32,
    u_offset: u32,
    u_stride: u32,
    out_stride: u32,
    state_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> u: array<f32>; // [tokens, channels]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [channels, taps]
@group(0) @binding(2) var<storage, read_write> state: array<f32>; // [taps - 1, channels]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [tokens, channels]

fn input(age: u32, channel: u32) -> f32 {
    // age counts from the oldest input of the state
    if age < params.taps - 1u {
        return state[age * params.state_stride + channel];
    }
    return u[params.u_offset + (age - (params.taps - 1u)) * params.u_stride + channel];
}

@compute @workgroup_size(64)
fn conv_silu(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    if channel >= params.channels {
        return;
    }
    for (var t = 0u; t < params.tokens; t++) {
        var sum = 0.0;
        for (var j = 0u; j < params.taps; j++) {
            sum = fma(weight[channel * params.taps + j], input(t + j, channel), sum);
        }
        out[t * params.out_stride + channel] = sum / (1.0 + exp(-sum));
    }
    // in ascending order: an entry is read before it is overwritten
    for (var j = 0u; j < params.taps - 1u; j++) {
        state[j * params.state_stride + channel] = input(params.tokens + j, channel);
    }
}
