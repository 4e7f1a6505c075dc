// int8 activations, two teams of 32 threads, four rows each
struct Params {
    rows: u32,
    blocks: u32,
    scales: u32,
    biases: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> xs: array<vec2<f32>>; // per 32: scale, scale * sum
@group(0) @binding(2) var<storage, read> words: array<u32>;
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn bf16_at(base: u32, index: u32) -> f32 {
    let word = words[base + index / 2u];
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (index & 1u) == 1u));
}

var<workgroup> partial: array<vec4<f32>, 64>;

fn row_dot(row: u32, block: u32, groups: u32, e: vec4<u32>, o: vec4<u32>, s: vec2<f32>) -> f32 {
    let index = row * groups + block / 2u;
    let w = codes[row * params.blocks + block];
    let even = w & vec4<u32>(0x0f0f0f0fu);
    let odd = (w >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
    var acc = dot4I8Packed(even.x, e.x) + dot4I8Packed(odd.x, o.x);
    acc += dot4I8Packed(even.y, e.y) + dot4I8Packed(odd.y, o.y);
    acc += dot4I8Packed(even.z, e.z) + dot4I8Packed(odd.z, o.z);
    acc += dot4I8Packed(even.w, e.w) + dot4I8Packed(odd.w, o.w);
    return fma(bf16_at(params.scales, index), f32(acc) * s.x, bf16_at(params.biases, index) * s.y);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % 32u;
    let row = (group.x * 2u + local / 32u) * 4u;
    let groups = params.blocks / 2u;
    var a0 = 0.0;
    var a1 = 0.0;
    var a2 = 0.0;
    var a3 = 0.0;
    for (var block = lane; block < params.blocks; block += 32u) {
        let e = x[block * 2u];
        let o = x[block * 2u + 1u];
        let s = xs[block];
        a0 += row_dot(min(row + 0u, params.rows - 1u), block, groups, e, o, s);
        a1 += row_dot(min(row + 1u, params.rows - 1u), block, groups, e, o, s);
        a2 += row_dot(min(row + 2u, params.rows - 1u), block, groups, e, o, s);
        a3 += row_dot(min(row + 3u, params.rows - 1u), block, groups, e, o, s);
    }
    partial[0u + local] = vec4<f32>(a0, a1, a2, a3);
    for (var half = 16u; half > 0u; half /= 2u) {
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
