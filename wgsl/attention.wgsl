// Attention of one query head over one split of the KV cache, by online softmax over runs of 128 positions.
// Leaves (max, sum of exponentials, unnormalised output) for attention_merge.wgsl; a split that is alone divides and
// applies the output gate itself, with the same bits.
// Splits have a fixed length whatever the step, so a token's result does not depend on how its prompt was cut.

struct Params {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    q_stride: u32,
    first_token: u32,
    position: u32, // of first_token
    window_start: u32, // position of row 0 of the window
    window_rows: u32,
    first_split: u32, // of the window, in the scratch
    splits: u32, // in the scratch
    scale: f32,
    out_stride: u32,
    gate_offset: u32,
    gate_stride: u32,
    gate_head: u32, // elements from one head's gate to the next; 0: no gate
}
var<immediate> params: Params;

override split: u32 = 512u;

@group(0) @binding(0) var<storage, read> q: array<f32>; // [tokens, heads * dim]
@group(0) @binding(1) var<storage, read> keys: array<vec4<f32>>; // [positions, kv_heads * dim]
@group(0) @binding(2) var<storage, read> values: array<f32>; // [positions, kv_heads * dim]
@group(0) @binding(3) var<storage, read> gate: array<f32>; // [tokens, heads * dim]
@group(0) @binding(4) var<storage, read_write> scratch: array<f32>; // [tokens, heads, splits, dim + 2]
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // [tokens, heads * dim]

const lowest: f32 = -3.0e38;

var<workgroup> query: array<vec4<f32>, 64>;
var<workgroup> weight: array<f32, 128>;
var<workgroup> partial: array<f32, 128>;

fn finish(token: u32, head: u32, i: u32, sum: f32, total: f32) {
    let row = params.first_token + token;
    var y = sum / total;
    if params.gate_head > 0u {
        let g = gate[params.gate_offset + row * params.gate_stride + head * params.gate_head + i];
        y *= 1.0 / (1.0 + exp(-g));
    }
    out[row * params.out_stride + head * params.dim + i] = y;
}

@compute @workgroup_size(128)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = group.x;
    let token = group.z;
    let kv = head / (params.heads / params.kv_heads);
    let row = params.kv_heads * params.dim;
    let from_row = group.y * split; // in the window
    // rows of this window that the token may see
    let seen = min(params.position + token + 1u - min(params.window_start, params.position + token + 1u), params.window_rows);
    let to_row = min(from_row + split, seen);
    let dim4 = params.dim / 4u;
    if local < dim4 {
        let at = (params.first_token + token) * params.q_stride + head * params.dim + local * 4u;
        query[local] = vec4<f32>(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
    }
    var top = lowest;
    var total = 0.0;
    var acc0 = 0.0;
    var acc1 = 0.0;
    for (var start = from_row; start < to_row; start += 128u) {
        workgroupBarrier();
        let position = start + local;
        var score = lowest;
        if position < to_row {
            let at = (position * row + kv * params.dim) / 4u;
            var sum = vec4<f32>();
            for (var i = 0u; i < dim4; i++) {
                sum = fma(query[i], keys[at + i], sum);
            }
            score = ((sum.x + sum.y) + (sum.z + sum.w)) * params.scale;
        }
        partial[local] = score;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                partial[local] = max(partial[local], partial[local + half]);
            }
        }
        workgroupBarrier();
        let new_top = max(top, partial[0]);
        let shrink = exp(top - new_top);
        workgroupBarrier();
        let w = select(0.0, exp(score - new_top), position < to_row);
        weight[local] = w;
        partial[local] = w;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                partial[local] += partial[local + half];
            }
        }
        workgroupBarrier();
        total = fma(total, shrink, partial[0]);
        top = new_top;
        let count = min(128u, to_row - start);
        acc0 *= shrink;
        acc1 *= shrink;
        if local < params.dim {
            for (var j = 0u; j < count; j++) {
                acc0 = fma(weight[j], values[(start + j) * row + kv * params.dim + local], acc0);
            }
        }
        if local + 128u < params.dim {
            for (var j = 0u; j < count; j++) {
                acc1 = fma(weight[j], values[(start + j) * row + kv * params.dim + local + 128u], acc1);
            }
        }
    }
    if params.splits == 1u {
        if local < params.dim {
            finish(token, head, local, acc0, total);
        }
        if local + 128u < params.dim {
            finish(token, head, local + 128u, acc1, total);
        }
        return;
    }
    let at = ((token * params.heads + head) * params.splits + params.first_split + group.y) * (params.dim + 2u);
    if local == 0u {
        scratch[at] = top;
        scratch[at + 1u] = total;
    }
    if local < params.dim {
        scratch[at + 2u + local] = acc0;
    }
    if local + 128u < params.dim {
        scratch[at + 2u + local + 128u] = acc1;
    }
}
