// Third stage of the delta rule over a prompt, as delta_net_chunks.wgsl, by the matrix units of a device: what they multiply
// is in f16, what they add up, the state above all, in f32.
// D = solved (V - diag(since) K S) ; O = diag(since) Q S + scores D ; S <- exp(sum of g) S + K^T diag(to) D
// A workgroup has one value head and 16 columns of the state. Each of four subgroups keeps one or two tiles of 16 rows of it,
// and has one of the products of K and of Q for 16 tokens. All of them do the same, as WGSL wants it: where half of them
// would do, the others do it again, and nobody reads that. Subgroups are 32 threads in a row: only devices that are known to
// have such get this kernel.

enable f16;
enable wgpu_cooperative_matrix;

//import delta_net_scratch

struct Params {
    rows: u32, // of the run: tokens, rounded up to chunks of 32
    key_heads: u32,
    value_heads: u32,
    state_stride: u32,
}
var<immediate> params: Params;

override key_dim: u32 = 128u; // or 64
override side_by_side: u32 = 1u; // value heads in a row that share a key head
override value4: u32 = 32u;
override key_tiles: u32 = key_dim / 16u;
override key_stride: u32 = key4 + 2u; // quads: 8 rows in a row are in banks of their own
override token_size: u32 = 64u * key_stride;
override state_size: u32 = 16u * key_stride;
override sum_stride: u32 = key_dim + 4u;
override sum_size: u32 = 16u * sum_stride;
override brought: u32 = key4 / 4u; // quads of 32 tokens that a thread brings

@group(0) @binding(0) var<storage, read_write> scratch: array<vec4<f32>>; // see shared/delta_net_scratch.wgsl
@group(0) @binding(1) var<storage, read_write> state: array<f32>; // [value_heads * key_dim, value_dim]

var<workgroup> token_halves: array<vec4<f16>, token_size>; // [K, then diag(since) Q; 32 tokens, key_dim]
var<workgroup> state_halves: array<vec4<f16>, state_size>; // [16 columns, key_dim]
var<workgroup> state_sums: array<f32, sum_size>; // the same
var<workgroup> tie_halves: array<vec4<f16>, 640>; // [solved, then scores; 32 tokens, 32 tokens and 8]
var<workgroup> missing_halves: array<f16, 640>; // [16 columns, 32 tokens and 8]: V - diag(since) K S
var<workgroup> delta_halves: array<f16, 1280>; // [D, then diag(to) D; 16 columns, 32 tokens and 8]
var<workgroup> token_sums: array<f32, 1152>; // [2, 16 columns, 32 tokens and 4]: K S, then D, and O in the second

// What a thread brings of a chunk, on its way while the one before is computed.
struct Chunk {
    keys: array<vec4<f32>, 8>,
    queries: array<vec4<f32>, 8>,
    ties: array<vec4<f32>, 4>, // two of solved, two of scores
    value: vec4<f32>,
    decays: vec2<f32>, // of token local / 4
    since: f32, // of token local % 32
    decay: f32, // of the whole chunk
}

fn value_place(head: u32, block: u32, chunk: u32, local: u32) -> u32 {
    return values_at(head) + (chunk * 32u + local / 4u) * value4 + block * 4u + local % 4u;
}

fn bring(head: u32, key_head: u32, block: u32, chunk: u32, local: u32) -> Chunk {
    var c: Chunk;
    let first = chunk * 32u;
    for (var k = 0u; k < brought; k++) {
        let n = k * 128u + local;
        c.keys[k] = scratch[key_rows_at(key_head) + first * key4 + n];
        c.queries[k] = scratch[queries_at(key_head) + first * key4 + n];
    }
    for (var k = 0u; k < 2u; k++) {
        c.ties[k] = scratch[solved_at(head) + first * 8u + k * 128u + local];
        c.ties[2u + k] = scratch[scores_at(head) + first * 8u + k * 128u + local];
    }
    c.value = scratch[value_place(head, block, chunk, local)];
    c.decays = scratch[decays_at(head) + first + local / 4u].xy;
    c.since = scratch[decays_at(head) + first + local % 32u].x;
    c.decay = scratch[decays_at(head) + first + 31u].x;
    return c;
}

fn keep(c: Chunk, local: u32) {
    let queries = 32u * key_stride;
    for (var k = 0u; k < brought; k++) {
        let n = k * 128u + local;
        token_halves[n / key4 * key_stride + n % key4] = vec4<f16>(c.keys[k]);
        // turned: [key_dim / 4, 32 tokens]
        token_halves[queries + n % 32u * key_stride + n / 32u] = vec4<f16>(c.since * c.queries[k]);
    }
    for (var k = 0u; k < 2u; k++) {
        let n = k * 128u + local;
        let at = n % 32u * 10u + n / 32u;
        tie_halves[at] = vec4<f16>(c.ties[k]);
        tie_halves[320u + at] = vec4<f16>(c.ties[2u + k]);
    }
}

// The state in f16, from `state_sums`.
fn round_state(local: u32) {
    for (var n = local; n < 16u * key4; n += 128u) {
        let at = n / key4 * sum_stride + n % key4 * 4u;
        let s = vec4<f32>(state_sums[at], state_sums[at + 1u], state_sums[at + 2u], state_sums[at + 3u]);
        state_halves[n / key4 * key_stride + n % key4] = vec4<f16>(s);
    }
}

// Of a token four columns.
fn sums_of_token(half: u32, token: u32, column: u32) -> vec4<f32> {
    let at = half * 576u + column * 36u + token;
    return vec4<f32>(token_sums[at], token_sums[at + 36u], token_sums[at + 72u], token_sums[at + 108u]);
}

@compute @workgroup_size(128)
fn delta_net_chunks_cooperative(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let head = group.x;
    let key_head = head / side_by_side % params.key_heads;
    let block = group.y;
    let subgroup = local / 32u;
    let its_state = head * key_dim * params.state_stride + block * 16u;
    for (var n = local; n < 16u * key_dim; n += 128u) {
        state_sums[n % 16u * sum_stride + n / 16u] = state[its_state + n / 16u * params.state_stride + n % 16u];
    }
    workgroupBarrier();
    var s0 = coopLoad<coop_mat16x16<f32, C>>(&state_sums[16u * subgroup], sum_stride);
    var s1: coop_mat16x16<f32, C>;
    if key_tiles > 4u {
        s1 = coopLoad<coop_mat16x16<f32, C>>(&state_sums[16u * subgroup + 64u], sum_stride);
    }
    round_state(local);
    // of the subgroup: 16 tokens, of K or Q
    let its_tokens = 16u * (subgroup % 2u);
    let its_rows = (subgroup / 2u * 32u + its_tokens) * key_stride;
    let its_sums = subgroup / 2u * 576u + its_tokens;
    // of the thread: a token and four columns
    let token = local / 4u;
    let column = local % 4u * 4u;
    let chunks = params.rows / 32u;
    var c = bring(head, key_head, block, 0u, local);
    for (var chunk = 0u; chunk < chunks; chunk++) {
        keep(c, local);
        let value = c.value;
        let decays = c.decays;
        let decay = c.decay;
        workgroupBarrier();
        // the next one is on its way while this one is computed
        c = bring(head, key_head, block, min(chunk + 1u, chunks - 1u), local);
        // K S, and diag(since) Q S
        var sums: coop_mat16x16<f32, C>;
        for (var k = 0u; k < key_dim / 4u; k += 4u) {
            let a = coopLoadT<coop_mat16x16<f16, A>>(&token_halves[its_rows + k], key_stride);
            let b = coopLoad<coop_mat16x16<f16, B>>(&state_halves[k], key_stride);
            sums = coopMultiplyAdd(a, b, sums);
        }
        coopStore(sums, &token_sums[its_sums], 36u);
        workgroupBarrier();
        let missing = fma(vec4<f32>(-decays.x), sums_of_token(0u, token, column), value);
        for (var j = 0u; j < 4u; j++) {
            missing_halves[(column + j) * 40u + token] = f16(missing[j]);
        }
        workgroupBarrier();
        var deltas: coop_mat16x16<f32, C>;
        for (var k = 0u; k < 2u; k++) {
            let a = coopLoadT<coop_mat16x16<f16, A>>(&tie_halves[10u * its_tokens + 4u * k], 10u);
            let b = coopLoad<coop_mat16x16<f16, B>>(&missing_halves[16u * k], 40u);
            deltas = coopMultiplyAdd(a, b, deltas);
        }
        coopStore(deltas, &token_sums[its_sums], 36u);
        workgroupBarrier();
        let delta = sums_of_token(0u, token, column);
        for (var j = 0u; j < 4u; j++) {
            delta_halves[(column + j) * 40u + token] = f16(delta[j]);
            delta_halves[640u + (column + j) * 40u + token] = f16(decays.y * delta[j]);
        }
        workgroupBarrier();
        for (var k = 0u; k < 2u; k++) {
            let a = coopLoadT<coop_mat16x16<f16, A>>(&tie_halves[320u + 10u * its_tokens + 4u * k], 10u);
            let b = coopLoad<coop_mat16x16<f16, B>>(&delta_halves[16u * k], 40u);
            sums = coopMultiplyAdd(a, b, sums);
        }
        coopStore(sums, &token_sums[its_sums], 36u);
        s0 = decay * s0;
        for (var k = 0u; k < 2u; k++) {
            let a = coopLoad<coop_mat16x16<f16, A>>(&token_halves[16u * k * key_stride + 4u * subgroup], key_stride);
            let b = coopLoad<coop_mat16x16<f16, B>>(&delta_halves[640u + 16u * k], 40u);
            s0 = coopMultiplyAdd(a, b, s0);
        }
        coopStore(s0, &state_sums[16u * subgroup], sum_stride);
        if key_tiles > 4u {
            s1 = decay * s1;
            for (var k = 0u; k < 2u; k++) {
                let a = coopLoad<coop_mat16x16<f16, A>>(&token_halves[16u * k * key_stride + 4u * subgroup + 16u], key_stride);
                let b = coopLoad<coop_mat16x16<f16, B>>(&delta_halves[640u + 16u * k], 40u);
                s1 = coopMultiplyAdd(a, b, s1);
            }
            coopStore(s1, &state_sums[16u * subgroup + 64u], sum_stride);
        }
        workgroupBarrier();
        scratch[value_place(head, block, chunk, local)] = sums_of_token(1u, token, column);
        round_state(local);
    }
    for (var n = local; n < 16u * key_dim; n += 128u) {
        state[its_state + n / 16u * params.state_stride + n % 16u] = state_sums[n % 16u * sum_stride + n / 16u];
    }
}
