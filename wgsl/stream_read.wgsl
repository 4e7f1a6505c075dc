// Reads memory and nothing else: the speed that other kernels are held against. A workgroup takes 32 KiB, a thread eight
// loads that wait for nothing.
// out[t, g] = xor of the words x[t, 8192 g .. 8192 (g + 1)]

struct Params {
    width: u32, // in vec4
    x_stride: u32, // in vec4
    out_stride: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>; // [tokens, width]
@group(0) @binding(1) var<storage, read_write> out: array<u32>; // [tokens, width / 8192]

var<workgroup> partial: array<vec4<u32>, 256>;

fn load(row: u32, i: u32) -> vec4<u32> {
    return select(x[row + min(i, params.width - 1u)], vec4<u32>(), vec4<bool>(i >= params.width));
}

@compute @workgroup_size(256)
fn stream_read(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y * params.x_stride;
    let i = group.x * 2048u + local;
    let a = load(row, i);
    let b = load(row, i + 256u);
    let c = load(row, i + 512u);
    let d = load(row, i + 768u);
    let e = load(row, i + 1024u);
    let f = load(row, i + 1280u);
    let g = load(row, i + 1536u);
    let h = load(row, i + 1792u);
    partial[local] = ((a ^ b) ^ (c ^ d)) ^ ((e ^ f) ^ (g ^ h));
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            partial[local] ^= partial[local + half];
        }
    }
    if local == 0u {
        let words = partial[0];
        out[group.y * params.out_stride + group.x] = (words.x ^ words.y) ^ (words.z ^ words.w);
    }
}
