// First stage of the delta rule over a prompt: what each token brings, for all tokens at once. A workgroup has one head of
// q, k or v and one token of the run; rows past the step's last token are zero, and change nothing in what follows.
// q, k, v = silu(conv(u)); q = q / |q| / sqrt(key_dim), k = k / |k|
// g = -exp(a_log) softplus(a + dt_bias), beta = sigmoid(b)

//import delta_net_scratch
//import delta_net_token
//import sigmoid

struct Params {
    tokens: u32, // of the step, up to the end of this part
    first: u32, // token of the step that the run begins with
    rows: u32, // of the run: tokens, rounded up to chunks of 32
    key_heads: u32,
    value_heads: u32,
    x_stride: u32,
    u_offset: u32,
    a_offset: u32,
    b_offset: u32,
    conv_stride: u32,
    q_scale: f32, // 1 / sqrt(key_dim)
}
var<immediate> params: Params;

override taps: u32 = 4u; // 2 to 8
override key_dim: u32 = 128u;
override value_dim: u32 = 128u;
override side_by_side: u32 = 1u; // value heads in a row that share a key head
override value4: u32 = 32u; // vec4s of a row of values, whole blocks of columns

@group(0) @binding(0) var<storage, read> x: array<f32>; // [tokens, u | z | b | a], in any order
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [channels of all heads, taps]
@group(0) @binding(2) var<storage, read> a_log: array<f32>; // [value_heads]
@group(0) @binding(3) var<storage, read> dt_bias: array<f32>; // [value_heads]
@group(0) @binding(4) var<storage, read> conv: array<f32>; // [value_heads * (taps - 1), q | k | v of the head]
@group(0) @binding(5) var<storage, read_write> scratch: array<f32>; // see shared/delta_net_scratch.wgsl

var<workgroup> squares: array<f32, 128>;
var<workgroup> square_sums: array<f32, 8>;

// The sum over 128 threads, the same for all of them and in the same order.
fn sum_of(local: u32, square: f32) -> f32 {
    squares[local] = square;
    workgroupBarrier();
    if local < 8u {
        var sum = 0.0;
        for (var i = local; i < 128u; i += 8u) {
            sum += squares[i];
        }
        square_sums[local] = sum;
    }
    workgroupBarrier();
    return ((square_sums[0] + square_sums[1]) + (square_sums[2] + square_sums[3]))
        + ((square_sums[4] + square_sums[5]) + (square_sums[6] + square_sums[7]));
}

// Element `c` of a row of a matrix that is turned.
fn turned(matrix: u32, row: u32, c: u32) -> u32 {
    return (matrix + ((row / 32u) * key4 + c / 4u) * 32u + row % 32u) * 4u + c % 4u;
}

@compute @workgroup_size(128)
fn delta_net_inputs(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y;
    let t = params.first + row;
    let is_token = t < params.tokens;
    if group.x >= 2u * params.key_heads {
        let head = group.x - 2u * params.key_heads;
        for (var c = local; c < 4u * value4; c += 128u) {
            var v = 0.0;
            if is_token && c < value_dim {
                v = convolved(head, 2u * key_dim + c, t);
            }
            scratch[(values_at(head) + row * value4) * 4u + c] = v;
        }
        if local == 0u {
            var decay = vec2<f32>();
            if is_token {
                let at = t * params.x_stride + head;
                let g = -exp(a_log[head]) * softplus(x[at + params.a_offset] + dt_bias[head]);
                decay = vec2<f32>(g, sigmoid(x[at + params.b_offset]));
            }
            let to = (decays_at(head) + row) * 4u;
            scratch[to] = decay.x;
            scratch[to + 1u] = decay.y;
        }
        return;
    }
    let is_key = group.x >= params.key_heads;
    let key_head = group.x % params.key_heads;
    // any of the value heads that share the key head: each has a copy of its last inputs
    let head = key_head * side_by_side;
    let first = select(0u, key_dim, is_key);
    // key_dim is at most 256: two elements a thread
    var low = 0.0;
    var high = 0.0;
    if is_token && local < key_dim {
        low = convolved(head, first + local, t);
    }
    if is_token && local + 128u < key_dim {
        high = convolved(head, first + local + 128u, t);
    }
    // 1e-6 is added to the sum, not to the mean
    let scale = select(params.q_scale, 1.0, is_key) / sqrt(sum_of(local, fma(high, high, low * low)) + 1e-6);
    for (var c = local; c < 4u * key4; c += 128u) {
        let v = select(low, high, c >= 128u) * scale;
        if is_key {
            scratch[turned(keys_at(key_head), row, c)] = v;
            scratch[(key_rows_at(key_head) + row * key4) * 4u + c] = v;
        } else {
            scratch[turned(queries_at(key_head), row, c)] = v;
        }
    }
}
