// Reads `params.rows` times 1 KiB and adds it up: the ceiling of everything else.
struct Params {
    rows: u32,
}
var<immediate> params: Params;

override threads: u32 = 256u;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>; // unused but bound, as in the products
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [rows, 64]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [1]

@compute @workgroup_size(threads)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = group.x * 1024u + local;
    let sum = (weights[at] ^ weights[at + 256u]) ^ (weights[at + 512u] ^ weights[at + 768u]) ^ (x[0] & vec4<u32>(1u));
    if all(sum == vec4<u32>(0x12345678u, 1u, 2u, 3u)) {
        out[0] = 1.0;
    }
}
