// f32 activations, 4-bit weights: a thread takes every lanes-th 8 columns (one word of codes), so that threads side by
// side read activations side by side. With `factored` scale and bias are applied to sums of 8.
struct Params {
    rows: u32,
    blocks: u32, // columns / 32
    grid_x: u32,
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
    accumulate: u32,
    first_token: u32,
    tokens: u32,
    codes: u32,
    scales: u32,
    biases: u32,
}
var<immediate> params: Params;

override lanes: u32 = 32u;
override threads: u32 = 64u;
override sums: u32 = 4u;
override factored: u32 = 0u;
override kept: u32 = sums * (threads + 1u);

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [cols]
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [rows, cols]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [rows]

var<workgroup> partial: array<f32, kept>;

fn word(at: u32) -> u32 {
    return weights[at >> 2u][at & 3u];
}

fn bf16_at(base: u32, index: u32) -> f32 {
    let both = word(base + index / 2u);
    return bitcast<f32>(select(both << 16u, both & 0xffff0000u, (index & 1u) == 1u));
}

fn eight(row: u32, unit: u32, a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    let w = word(params.codes + row * params.blocks * 4u + unit);
    let index = row * (params.blocks / 2u) + unit / 8u;
    let scale = bf16_at(params.scales, index);
    let bias = bf16_at(params.biases, index);
    let even = vec4<f32>(unpack4xU8(w & 0x0f0f0f0fu));
    let odd = vec4<f32>(unpack4xU8((w >> 4u) & 0x0f0f0f0fu));
    let first = vec4<f32>(even.x, odd.x, even.y, odd.y);
    let second = vec4<f32>(even.z, odd.z, even.w, odd.w);
    if factored == 1u {
        let acc = fma(second, b, first * a);
        return fma(scale, (acc.x + acc.y) + (acc.z + acc.w), bias * sum);
    }
    let s = vec4<f32>(scale);
    let t = vec4<f32>(bias);
    let acc = fma(fma(second, s, t), b, fma(first, s, t) * a);
    return (acc.x + acc.y) + (acc.z + acc.w);
}

@compute @workgroup_size(threads)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = group.x * (threads / lanes) * sums;
    let row = first + local / lanes * sums;
    let last = params.rows - 1u;
    var a = array<f32, 8>();
    for (var unit = local % lanes; unit < params.blocks * 4u; unit += lanes) {
        let v = x[unit * 2u];
        let w = x[unit * 2u + 1u];
        let t = v + w;
        let sum = (t.x + t.y) + (t.z + t.w);
        a[0] += eight(min(row, last), unit, v, w, sum);
        a[1] += eight(min(row + 1u, last), unit, v, w, sum);
        a[2] += eight(min(row + 2u, last), unit, v, w, sum);
        a[3] += eight(min(row + 3u, last), unit, v, w, sum);
        if sums > 4u {
            a[4] += eight(min(row + 4u, last), unit, v, w, sum);
            a[5] += eight(min(row + 5u, last), unit, v, w, sum);
            a[6] += eight(min(row + 6u, last), unit, v, w, sum);
            a[7] += eight(min(row + 7u, last), unit, v, w, sum);
        }
    }
    for (var i = 0u; i < sums; i++) {
        partial[i * (threads + 1u) + local] = a[i];
    }
    workgroupBarrier();
    for (var i = local; i < threads / lanes * sums && first + i < params.rows; i += threads) {
        let start = i % sums * (threads + 1u) + i / sums * lanes;
        var sum = vec4<f32>();
        for (var lane = 0u; lane < lanes; lane += 4u) {
            let at = start + lane;
            sum += vec4<f32>(partial[at], partial[at + 1u], partial[at + 2u], partial[at + 3u]);
        }
        out[first + i] = (sum.x + sum.y) + (sum.z + sum.w);
    }
}
