// Second stage of the delta rule over a prompt: what ties the 32 tokens of a chunk to each other, for all chunks at once.
// A workgroup has one value head and one chunk; a thread has 4 x 4 products of tokens.
// decay(i, j) = exp(g[j + 1] + ... + g[i]), and nothing for j > i
// A[i, j] = beta_i (k_i k_j) decay(i, j) for j < i ; solved = (I + A)^-1 diag(beta) ; scores[i, j] = (q_i k_j) decay(i, j)
// Decays between two tokens are sums of what is between them: a difference of sums from the chunk's first token loses as
// many digits as the decays before the two have, and its parts leave the range of f32.

//import delta_net_scratch

struct Params {
    rows: u32, // of the run: tokens, rounded up to chunks of 32
    key_heads: u32,
    value_heads: u32,
}
var<immediate> params: Params;

override key_dim: u32 = 128u;
override side_by_side: u32 = 1u; // value heads in a row that share a key head
override value4: u32 = 32u;

@group(0) @binding(0) var<storage, read_write> scratch: array<vec4<f32>>; // see shared/delta_net_scratch.wgsl

var<workgroup> g: array<f32, 32>;
var<workgroup> beta: array<f32, 32>;
var<workgroup> ties: array<vec4<f32>, 256>; // A, [32, 32 / 4]
var<workgroup> inverse: array<vec4<f32>, 256>; // (I + A)^-1 turned: [32 / 4, 32 columns], four rows of a column

// Products of a token of one side with four of the other, as far as they are: dimension d of all is in `.x` and so on.
fn products(a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(dot(a, b0), dot(a, b1), dot(a, b2), dot(a, b3));
}

// Column `j` of (I + A)^-1, by forward substitution, four rows at a time. A thread reads its own column alone.
fn solve_column(j: u32) {
    for (var block = 0u; block < 8u; block++) {
        var sum = select(vec4<f32>(), vec4<f32>(1.0), vec4<u32>(4u * block) + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(j));
        let row = 32u * block;
        for (var m = 0u; m < block; m++) {
            let known = inverse[32u * m + j];
            sum -= vec4<f32>(
                dot(ties[row + m], known), dot(ties[row + 8u + m], known),
                dot(ties[row + 16u + m], known), dot(ties[row + 24u + m], known),
            );
        }
        // rows of the block that the others of it are tied to; the first row is done
        let second = ties[row + 8u + block];
        let third = ties[row + 16u + block];
        let fourth = ties[row + 24u + block];
        sum.y = fma(-second.x, sum.x, sum.y);
        sum.z = fma(-third.y, sum.y, fma(-third.x, sum.x, sum.z));
        sum.w = fma(-fourth.z, sum.z, fma(-fourth.y, sum.y, fma(-fourth.x, sum.x, sum.w)));
        inverse[row + j] = sum;
    }
}

@compute @workgroup_size(64)
fn delta_net_solve(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let chunk = group.y;
    let key_head = head / side_by_side % params.key_heads;
    let decays = decays_at(head) + chunk * 32u;
    if local < 32u {
        let given = scratch[decays + local];
        g[local] = given.x;
        beta[local] = given.y;
    }
    workgroupBarrier();
    // tokens i to i + 3 look back at tokens j to j + 3
    let i = local / 8u * 4u;
    let j = local % 8u * 4u;
    var k0 = vec4<f32>();
    var k1 = vec4<f32>();
    var k2 = vec4<f32>();
    var k3 = vec4<f32>();
    var q0 = vec4<f32>();
    var q1 = vec4<f32>();
    var q2 = vec4<f32>();
    var q3 = vec4<f32>();
    if j <= i {
        let keys = keys_at(key_head) + chunk * 32u * key4;
        let queries = queries_at(key_head) + chunk * 32u * key4;
        for (var d = 0u; d < 32u * key4; d += 32u) {
            let b0 = scratch[keys + d + j];
            let b1 = scratch[keys + d + j + 1u];
            let b2 = scratch[keys + d + j + 2u];
            let b3 = scratch[keys + d + j + 3u];
            k0 += products(scratch[keys + d + i], b0, b1, b2, b3);
            k1 += products(scratch[keys + d + i + 1u], b0, b1, b2, b3);
            k2 += products(scratch[keys + d + i + 2u], b0, b1, b2, b3);
            k3 += products(scratch[keys + d + i + 3u], b0, b1, b2, b3);
            q0 += products(scratch[queries + d + i], b0, b1, b2, b3);
            q1 += products(scratch[queries + d + i + 1u], b0, b1, b2, b3);
            q2 += products(scratch[queries + d + i + 2u], b0, b1, b2, b3);
            q3 += products(scratch[queries + d + i + 3u], b0, b1, b2, b3);
        }
    }
    let columns = vec4<u32>(j, j + 1u, j + 2u, j + 3u);
    var between = vec4<f32>();
    for (var m = j + 1u; m <= i; m++) {
        between += select(vec4<f32>(), vec4<f32>(g[m]), vec4<u32>(m) > columns);
    }
    let scores = scores_at(head) + chunk * 256u + j * 8u + i;
    for (var a = 0u; a < 4u; a++) {
        let row = i + a;
        if a > 0u {
            between += select(vec4<f32>(), vec4<f32>(g[row]), vec4<u32>(row) > columns);
        }
        let decay = exp(between);
        let of_keys = select(select(k0, k1, a == 1u), select(k2, k3, a == 3u), a >= 2u);
        let of_queries = select(select(q0, q1, a == 1u), select(q2, q3, a == 3u), a >= 2u);
        ties[row * 8u + j / 4u] = select(vec4<f32>(), beta[row] * of_keys * decay, columns < vec4<u32>(row));
        scratch[scores + a] = select(vec4<f32>(), of_queries * decay, columns <= vec4<u32>(row));
    }
    workgroupBarrier();
    if local < 32u {
        solve_column(local);
        var since = 0.0;
        var to = 0.0;
        for (var m = 0u; m < 32u; m++) {
            if m <= local {
                since += g[m];
            } else {
                to += g[m];
            }
        }
        scratch[decays + local] = vec4<f32>(exp(since), exp(to), 0.0, 0.0);
    }
    workgroupBarrier();
    let solved = solved_at(head) + chunk * 256u;
    for (var n = local; n < 256u; n += 64u) {
        // row `row` of columns c to c + 3
        let row = n % 32u;
        let c = n / 32u * 4u;
        let cell = row / 4u * 32u + c;
        let part = row % 4u;
        scratch[solved + n] = vec4<f32>(
            inverse[cell][part] * beta[c], inverse[cell + 1u][part] * beta[c + 1u],
            inverse[cell + 2u][part] * beta[c + 2u], inverse[cell + 3u][part] * beta[c + 3u],
        );
    }
}
