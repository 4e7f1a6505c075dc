// Gated delta rule over the tokens of a step. A workgroup has 32 columns of a value head's state, a column has 4 threads.
// S <- exp(g) S ; delta = beta (v - k S) ; S <- S + k delta ; out = q S, with q and k of unit length, q also / sqrt(dim)
// g = -exp(a_log) softplus(a + dt_bias), beta = sigmoid(b). Key head of value head h: h / (value_heads / key_heads).

struct Params {
    tokens: u32,
    key_heads: u32,
    value_heads: u32,
    key_dim: u32,
    value_dim: u32,
    x_stride: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    out_stride: u32,
    state_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, q | k | v]
@group(0) @binding(1) var<storage, read> a: array<f32>; // [tokens, value_heads]
@group(0) @binding(2) var<storage, read> b: array<f32>; // [tokens, value_heads]
@group(0) @binding(3) var<storage, read> a_log: array<f32>; // [value_heads]
@group(0) @binding(4) var<storage, read> dt_bias: array<f32>; // [value_heads]
@group(0) @binding(5) var<storage, read_write> state: array<f32>; // [value_heads * key_dim, value_dim]
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // [tokens, value_heads * value_dim]

var<workgroup> q: array<f32, 256>;
var<workgroup> k: array<f32, 256>;
var<workgroup> partial: array<vec2<f32>, 128>;

// ln(1 + e) for 0 <= e <= 1 by the series of the area tangent: no cancellation for small e
fn ln_1p(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let t = s * s;
    return 2.0 * s * (1.0 + t * (1.0 / 3.0 + t * (1.0 / 5.0 + t * (1.0 / 7.0 + t * (1.0 / 9.0 + t * (1.0 / 11.0 + t / 13.0))))));
}

fn softplus(v: f32) -> f32 {
    return max(v, 0.0) + ln_1p(exp(-abs(v)));
}

@compute @workgroup_size(128)
fn delta_net(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let column = group.y * 32u + local % 32u;
    let part = local / 32u;
    let key_head = head / (params.value_heads / params.key_heads);
    let keys = params.key_heads * params.key_dim;
    let decay_rate = -exp(a_log[head]);
    let first = head * params.key_dim * params.state_stride;
    for (var t = 0u; t < params.tokens; t++) {
        let row = t * params.x_stride;
        var sums = vec2<f32>();
        for (var i = local; i < params.key_dim; i += 128u) {
            let qi = x[row + key_head * params.key_dim + i];
            let ki = x[row + keys + key_head * params.key_dim + i];
            q[i] = qi;
            k[i] = ki;
            sums = fma(vec2<f32>(qi, ki), vec2<f32>(qi, ki), sums);
        }
        partial[local] = sums;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                partial[local] += partial[local + half];
            }
        }
        workgroupBarrier();
        // 1e-6 is added to the sum, not to the mean
        let q_scale = 1.0 / sqrt(partial[0].x + 1e-6) / sqrt(f32(params.key_dim));
        let k_scale = 1.0 / sqrt(partial[0].y + 1e-6);
        let decay = exp(decay_rate * softplus(a[params.a_offset + t * params.a_stride + head] + dt_bias[head]));
        let beta = 1.0 / (1.0 + exp(-b[params.b_offset + t * params.b_stride + head]));
        var predicted = 0.0;
        if column < params.value_dim {
            for (var i = part; i < params.key_dim; i += 4u) {
                predicted = fma(k[i] * k_scale, state[first + i * params.state_stride + column] * decay, predicted);
            }
        }
        workgroupBarrier();
        partial[local].x = predicted;
        workgroupBarrier();
        let lane = local % 32u;
        predicted = (partial[lane].x + partial[lane + 32u].x) + (partial[lane + 64u].x + partial[lane + 96u].x);
        var read = 0.0;
        if column < params.value_dim {
            let delta = beta * (x[row + 2u * keys + head * params.value_dim + column] - predicted);
            for (var i = part; i < params.key_dim; i += 4u) {
                let at = first + i * params.state_stride + column;
                let s = fma(k[i] * k_scale, delta, state[at] * decay);
                state[at] = s;
                read = fma(q[i] * q_scale, s, read);
            }
        }
        partial[local].y = read;
        workgroupBarrier();
        if local < 32u && column < params.value_dim {
            let sum = (partial[lane].y + partial[lane + 32u].y) + (partial[lane + 64u].y + partial[lane + 96u].y);
            out[t * params.out_stride + head * params.value_dim + column] = sum;
        }
        workgroupBarrier();
    }
}
