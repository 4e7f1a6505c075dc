// How many tokens of a prompt chose each expert: the first of two stages that group pairs where all experts are in memory.
// counts[e, s] = pairs of expert e among the tokens of slice s
// Tokens are cut into 32 slices. A workgroup has 8 experts, a thread one of them and one slice.

//import chosen

@group(0) @binding(0) var<storage, read> ids: array<vec4<u32>>; // [tokens, top_k], rows of whole vec4s
@group(0) @binding(1) var<storage, read_write> counts: array<u32>; // [experts, 32]

@compute @workgroup_size(256)
fn expert_count(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let expert = group.x * 8u + local / 32u;
    if expert >= params.experts {
        return;
    }
    let slice = local % 32u;
    var count = vec4<u32>();
    for (var t = first_of(slice); t < first_of(slice + 1u); t++) {
        for (var k = 0u; k < params.ids_stride; k++) {
            count += is_chosen(expert, t, k);
        }
    }
    counts[expert * 32u + slice] = (count.x + count.y) + (count.z + count.w);
}
