// What mixes tokens in a linear layer, for decode: convolution with SiLU, gated delta rule, gated RMS norm. A workgroup
// has one value head and goes through the tokens of the step; a thread has one column of the state and 16 of its rows in
// registers (rows beyond 16 * parts are read from memory twice a token). Prompts take delta_net_inputs.wgsl and what
// follows it.
// q, k, v = silu(conv(u)): y[t, c] = silu(sum_j weight[c, j] * u[t - taps + 1 + j, c])
// S <- exp(g) S ; delta = beta (v - k S) ; S <- S + k delta ; y = q S, with q and k of unit length, q also / sqrt(dim)
// out = y / sqrt(mean(y^2) + eps) * norm * silu(z), in 8 bits where `pack` is 1
// g = -exp(a_log) softplus(a + dt_bias), beta = sigmoid(b). Key head of value head h: h / side_by_side % key_heads.
// Each value head keeps its own copy of its key head's last inputs, so no workgroup writes what another reads.

//import delta_net_token
//import keep_inputs
//import pack_head
//import sigmoid

struct Params {
    tokens: u32,
    key_heads: u32,
    value_heads: u32,
    x_stride: u32,
    u_offset: u32,
    z_offset: u32,
    a_offset: u32,
    b_offset: u32,
    out_stride: u32,
    conv_stride: u32,
    state_stride: u32,
    eps: f32,
    q_scale: f32, // 1 / sqrt(key_dim)
    dim: f32, // value_dim
}
var<immediate> params: Params;

override taps: u32 = 4u; // 2 to 8
override key_dim: u32 = 128u;
override value_dim: u32 = 128u;
override side_by_side: u32 = 1u; // value heads in a row that share a key head
override lanes: u32 = 128u; // value_dim rounded up
override parts: u32 = 8u; // threads that share a column
override threads: u32 = lanes * parts;
override pack: u32 = 0u;
override channels: u32 = 2u * key_dim + value_dim; // of a value head

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, u | z | b | a], in any order
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [channels of all heads, taps]
@group(0) @binding(2) var<storage, read> a_log: array<f32>; // [value_heads]
@group(0) @binding(3) var<storage, read> dt_bias: array<f32>; // [value_heads]
@group(0) @binding(4) var<storage, read> norm: array<f32>; // [value_dim]
@group(0) @binding(5) var<storage, read_write> conv: array<f32>; // [value_heads * (taps - 1), q | k | v of the head]
@group(0) @binding(6) var<storage, read_write> state: array<f32>; // [value_heads * key_dim, value_dim]
@group(0) @binding(7) var<storage, read_write> out: array<u32>; // [tokens, value_heads * value_dim], bits of f32, or words: see shared/quantise.wgsl

var<workgroup> mixed: array<f32, channels>;
var<workgroup> q: array<vec4<f32>, 64>;
var<workgroup> k: array<vec4<f32>, 64>;
var<workgroup> squares: array<f32, 24>; // eight sums of q, eight of k, eight of y
var<workgroup> predicted: array<f32, threads>;
var<workgroup> answered: array<f32, threads>;
var<workgroup> y: array<f32, lanes>;

// 16 rows of a column.
struct Rows {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// Rows past the last repeat it: q and k are zero there.
fn at(head: u32, row: u32, column: u32) -> u32 {
    return (head * key_dim + min(row, key_dim - 1u)) * params.state_stride + min(column, value_dim - 1u);
}

fn load4(head: u32, row: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(
        state[at(head, row, column)], state[at(head, row + 1u, column)],
        state[at(head, row + 2u, column)], state[at(head, row + 3u, column)],
    );
}

fn load(head: u32, row: u32, column: u32) -> Rows {
    return Rows(
        load4(head, row, column), load4(head, row + 4u, column),
        load4(head, row + 8u, column), load4(head, row + 12u, column),
    );
}

fn store4(head: u32, row: u32, column: u32, s: vec4<f32>) {
    if row < key_dim { state[at(head, row, column)] = s.x; }
    if row + 1u < key_dim { state[at(head, row + 1u, column)] = s.y; }
    if row + 2u < key_dim { state[at(head, row + 2u, column)] = s.z; }
    if row + 3u < key_dim { state[at(head, row + 3u, column)] = s.w; }
}

fn store(head: u32, row: u32, column: u32, s: Rows) {
    if column < value_dim {
        store4(head, row, column, s.a);
        store4(head, row + 4u, column, s.b);
        store4(head, row + 8u, column, s.c);
        store4(head, row + 12u, column, s.d);
    }
}

fn decayed(s: Rows, decay: f32) -> Rows {
    return Rows(s.a * decay, s.b * decay, s.c * decay, s.d * decay);
}

fn corrected(s: Rows, row: u32, delta: f32) -> Rows {
    let by = vec4<f32>(delta);
    let i = row / 4u;
    return Rows(fma(k[i], by, s.a), fma(k[i + 1u], by, s.b), fma(k[i + 2u], by, s.c), fma(k[i + 3u], by, s.d));
}

fn add_k(s: Rows, row: u32, sum: vec4<f32>) -> vec4<f32> {
    let i = row / 4u;
    return fma(k[i + 3u], s.d, fma(k[i + 2u], s.c, fma(k[i + 1u], s.b, fma(k[i], s.a, sum))));
}

fn add_q(s: Rows, row: u32, sum: vec4<f32>) -> vec4<f32> {
    let i = row / 4u;
    return fma(q[i + 3u], s.d, fma(q[i + 2u], s.c, fma(q[i + 1u], s.b, fma(q[i], s.a, sum))));
}

// Elements 4 i to 4 i + 3 of a vector of key_dim in `mixed`, zero past its end.
fn four(first: u32, i: u32) -> vec4<f32> {
    let e = vec4<u32>(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u);
    let n = first + min(e, vec4<u32>(key_dim - 1u));
    return select(vec4<f32>(), vec4<f32>(mixed[n.x], mixed[n.y], mixed[n.z], mixed[n.w]), e < vec4<u32>(key_dim));
}

// Eight sums of squares, added without a loop: drivers that unroll one move the 1e-6 that follows to its beginning.
fn eight(i: u32) -> f32 {
    return ((squares[i] + squares[i + 1u]) + (squares[i + 2u] + squares[i + 3u]))
        + ((squares[i + 4u] + squares[i + 5u]) + (squares[i + 6u] + squares[i + 7u]));
}

@compute @workgroup_size(threads)
fn delta_net(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let column = local % lanes;
    let part = local / lanes;
    let first = part * 16u;
    // all of it is on its way before anything is computed
    var held = load(head, first, column);
    let decay_rate = -exp(a_log[head]);
    for (var t = 0u; t < params.tokens; t++) {
        let row = t * params.x_stride;
        for (var c = local; c < channels; c += threads) {
            mixed[c] = convolved(head, c, t);
        }
        let decay = exp(decay_rate * softplus(x[row + params.a_offset + head] + dt_bias[head]));
        let beta = sigmoid(x[row + params.b_offset + head]);
        let z = x[row + params.z_offset + head * value_dim + min(column, value_dim - 1u)];
        workgroupBarrier();
        if local < 16u {
            var sum = 0.0;
            for (var i = local % 8u; i < key_dim; i += 8u) {
                let v = mixed[(local / 8u) * key_dim + i];
                sum = fma(v, v, sum);
            }
            squares[local] = sum;
        }
        for (var i = local; i < 128u; i += threads) {
            if i < 64u {
                q[i] = four(0u, i);
            } else {
                k[i - 64u] = four(key_dim, i - 64u);
            }
        }
        workgroupBarrier();
        let q_square = eight(0u);
        let k_square = eight(8u);
        // 1e-6 is added to the sum, not to the mean
        let q_scale = params.q_scale / sqrt(q_square + 1e-6);
        let k_scale = 1.0 / sqrt(k_square + 1e-6);
        held = decayed(held, decay);
        var sums = add_k(held, first, vec4<f32>());
        for (var r = first + 16u * parts; r < key_dim; r += 16u * parts) {
            sums = add_k(decayed(load(head, r, column), decay), r, sums);
        }
        predicted[local] = (sums.x + sums.y) + (sums.z + sums.w);
        workgroupBarrier();
        var sum = 0.0;
        for (var p = 0u; p < parts; p++) {
            sum += predicted[p * lanes + column];
        }
        let delta = k_scale * beta * fma(-k_scale, sum, mixed[2u * key_dim + min(column, value_dim - 1u)]);
        held = corrected(held, first, delta);
        sums = add_q(held, first, vec4<f32>());
        for (var r = first + 16u * parts; r < key_dim; r += 16u * parts) {
            let s = corrected(decayed(load(head, r, column), decay), r, delta);
            store(head, r, column, s);
            sums = add_q(s, r, sums);
        }
        answered[local] = (sums.x + sums.y) + (sums.z + sums.w);
        workgroupBarrier();
        if part == 0u {
            sum = 0.0;
            for (var p = 0u; p < parts; p++) {
                sum += answered[p * lanes + column];
            }
            y[column] = sum * q_scale;
        }
        workgroupBarrier();
        if local < 8u {
            var square = 0.0;
            for (var i = local; i < value_dim; i += 8u) {
                square = fma(y[i], y[i], square);
            }
            squares[16u + local] = square;
        }
        workgroupBarrier();
        if part == 0u && column < value_dim {
            let scale = 1.0 / sqrt(eight(16u) / params.dim + params.eps);
            let gated = y[column] * scale * norm[column] * silu(z);
            if pack == 0u {
                out[t * params.out_stride + head * value_dim + column] = bitcast<u32>(gated);
            } else {
                y[column] = gated;
            }
        }
        if pack == 1u {
            pack_head(local, value_dim, head, params.value_heads, t * params.out_stride);
        }
    }
    store(head, first, column, held);
    keep_inputs(head, local, threads);
}
