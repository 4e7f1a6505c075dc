// f32 activations, codes loaded word by word
struct Params {
    rows: u32,
    blocks: u32,
    scales: u32,
    biases: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> xs: array<vec2<f32>>; // per 32: scale, scale * sum
@group(0) @binding(2) var<storage, read> words: array<u32>;
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn bf16_at(base: u32, index: u32) -> f32 {
    let word = words[base + index / 2u];
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (index & 1u) == 1u));
}

var<workgroup> partial: array<vec4<f32>, 64>;

fn eight(word: u32) -> array<vec4<f32>, 2> {
    let even = vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
    let odd = vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu));
    return array<vec4<f32>, 2>(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
}

fn row_dot(row: u32, block: u32, groups: u32, v: array<vec4<f32>, 8>) -> f32 {
    let index = row * groups + block / 2u;
    let s = vec4<f32>(bf16_at(params.scales, index));
    let b = vec4<f32>(bf16_at(params.biases, index));
    let at = (row * params.blocks + block) * 4u;
    let w = vec4<u32>(words[at], words[at + 1u], words[at + 2u], words[at + 3u]);
    let c0 = eight(w.x);
    let c1 = eight(w.y);
    let c2 = eight(w.z);
    let c3 = eight(w.w);
    var acc = fma(c0[0], s, b) * v[0];
    acc = fma(fma(c0[1], s, b), v[1], acc);
    acc = fma(fma(c1[0], s, b), v[2], acc);
    acc = fma(fma(c1[1], s, b), v[3], acc);
    acc = fma(fma(c2[0], s, b), v[4], acc);
    acc = fma(fma(c2[1], s, b), v[5], acc);
    acc = fma(fma(c3[0], s, b), v[6], acc);
    acc = fma(fma(c3[1], s, b), v[7], acc);
    return (acc.x + acc.y) + (acc.z + acc.w);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % 64u;
    let row = (group.x * 1u + local / 64u) * 4u;
    let groups = params.blocks / 2u;
    var a0 = 0.0;
    var a1 = 0.0;
    var a2 = 0.0;
    var a3 = 0.0;
    for (var block = lane; block < params.blocks; block += 64u) {
        let at = block * 8u;
        let v = array<vec4<f32>, 8>(x[at], x[at + 1u], x[at + 2u], x[at + 3u], x[at + 4u], x[at + 5u], x[at + 6u], x[at + 7u]);
        a0 += row_dot(min(row + 0u, params.rows - 1u), block, groups, v);
        a1 += row_dot(min(row + 1u, params.rows - 1u), block, groups, v);
        a2 += row_dot(min(row + 2u, params.rows - 1u), block, groups, v);
        a3 += row_dot(min(row + 3u, params.rows - 1u), block, groups, v);
    }
    partial[0u + local] = vec4<f32>(a0, a1, a2, a3);
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[0u + local] += partial[0u + local + half];
        }
    }
    workgroupBarrier();
    if lane < 4u && row + lane < params.rows {
        out[row + lane] = partial[(lane / 4u) * 64u + local - lane][lane % 4u];
    }
}
