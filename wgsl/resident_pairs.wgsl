// The (token, expert) pairs of a step when every expert is in memory: slots are looked up here, without the host.
// pairs[t * top_k + k] = (t, t * top_k + k, place, slab) of expert ids[t, k]

struct Params {
    count: u32, // tokens * top_k
    top_k: u32,
    ids_stride: u32,
    first: u32, // of the layer, in slots
    experts: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> ids: array<u32>; // [tokens, top_k]
@group(0) @binding(1) var<storage, read> slots: array<vec2<u32>>; // [layers * experts] (place, slab)
@group(0) @binding(2) var<storage, read_write> pairs: array<vec4<u32>>; // [tokens * top_k]

@compute @workgroup_size(64)
fn resident_pairs(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.count {
        return;
    }
    let token = id.x / params.top_k;
    let expert = ids[token * params.ids_stride + id.x % params.top_k];
    // an expert that does not exist (NaN in the activations) must not read past the table; the host sees it later
    let slot = slots[params.first + min(expert, params.experts - 1u)];
    pairs[id.x] = vec4<u32>(token, id.x, slot.x, slot.y);
}
