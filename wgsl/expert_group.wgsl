// Pairs of a prompt by expert, and the tiles of each: the second stage, behind expert_count.wgsl. What the host does where
// experts are read (`routing.rs`), without a wait for the router.
// pairs = (token, token * top_k + k, place, slab), experts in order, tokens in order
// tiles = (first pair, pairs, place, slab): room for tiny ones, for small, middle and large ones; what is left has no pairs
// A workgroup has 8 experts, a thread one of them and one slice of the tokens.

//import chosen

override tiny: u32 = 8u; // tokens of a tile
override small: u32 = 16u;
override middle: u32 = 32u;
override large: u32 = 64u;

@group(0) @binding(0) var<storage, read> ids: array<vec4<u32>>; // [tokens, top_k], rows of whole vec4s
@group(0) @binding(1) var<storage, read> counts: array<vec4<u32>>; // [experts, 32 / 4]
@group(0) @binding(2) var<storage, read> slots: array<vec2<u32>>; // (place, slab) of every expert
@group(0) @binding(3) var<storage, read_write> pairs: array<vec4<u32>>; // [tokens * top_k]
@group(0) @binding(4) var<storage, read_write> tiles: array<vec4<u32>>; // [tiny_tiles + small_tiles + middle_tiles + large_tiles]

var<workgroup> pairs_of: array<u32, 1024>; // of each expert
var<workgroup> pairs_before: array<u32, 256>; // of a thread's experts, then of all up to them
var<workgroup> tiles_before: array<vec4<u32>, 256>; // the same of their tiny, small, middle and large tiles

fn count_of(expert: u32) -> u32 {
    var sum = vec4<u32>();
    for (var i = 0u; i < 8u; i++) {
        sum += counts[expert * 8u + i];
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

// Tiles of so many pairs: tiny, small, middle, large. A rest that one of the smaller ones holds is its.
fn tiles_of(count: u32) -> vec4<u32> {
    let large_ones = (max(count, middle) - middle + large - 1u) / large;
    let rest = count - min(count, large_ones * large);
    return vec4<u32>(
        u32(rest > 0u && rest <= tiny), u32(rest > tiny && rest <= small), u32(rest > small), large_ones,
    );
}

@compute @workgroup_size(256)
fn expert_group(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    // experts in a row are a thread's: at most four, of 1024
    let each = (params.experts + 255u) / 256u;
    var its_pairs = 0u;
    var its_tiles = vec4<u32>();
    for (var e = local * each; e < min(local * each + each, params.experts); e++) {
        let count = count_of(e);
        pairs_of[e] = count;
        its_pairs += count;
        its_tiles += tiles_of(count);
    }
    pairs_before[local] = its_pairs;
    tiles_before[local] = its_tiles;
    workgroupBarrier();
    for (var step = 1u; step < 256u; step *= 2u) {
        var more_pairs = 0u;
        var more_tiles = vec4<u32>();
        if local >= step {
            more_pairs = pairs_before[local - step];
            more_tiles = tiles_before[local - step];
        }
        workgroupBarrier();
        pairs_before[local] += more_pairs;
        tiles_before[local] += more_tiles;
        workgroupBarrier();
    }
    // where each kind begins, and what no expert needs of it
    let small_at = params.tiny_tiles;
    let middle_at = small_at + params.small_tiles;
    let large_at = middle_at + params.middle_tiles;
    let used = vec4<u32>(0u, small_at, middle_at, large_at) + tiles_before[255];
    for (var i = group.x * 256u + local; i < large_at + params.large_tiles; i += params.groups * 256u) {
        let is_free = (i >= used.x && i < small_at) || (i >= used.y && i < middle_at)
            || (i >= used.z && i < large_at) || i >= used.w;
        if is_free {
            tiles[i] = vec4<u32>();
        }
    }
    let expert = group.x * 8u + local / 32u;
    if expert >= params.experts {
        return;
    }
    let slice = local % 32u;
    let thread = expert / each;
    var start = 0u;
    var tile = vec4<u32>(0u, small_at, middle_at, large_at);
    if thread > 0u {
        start = pairs_before[thread - 1u];
        tile += tiles_before[thread - 1u];
    }
    for (var e = thread * each; e < expert; e++) {
        start += pairs_of[e];
        tile += tiles_of(pairs_of[e]);
    }
    let slot = slots[params.first_slot + expert];
    let count = pairs_of[expert];
    let own = tiles_of(count);
    for (var i = slice; i < own.w; i += 32u) {
        let done = i * large;
        tiles[tile.w + i] = vec4<u32>(start + done, min(count - done, large), slot);
    }
    // of the others there is one at most
    if slice == 0u && own.x + own.y + own.z > 0u {
        let done = own.w * large;
        let at = dot(own.xyz, tile.xyz);
        tiles[at] = vec4<u32>(start + done, count - done, slot);
    }
    var at = start;
    for (var s = 0u; s < slice; s++) {
        at += counts[expert * 8u + s / 4u][s % 4u];
    }
    for (var t = first_of(slice); t < first_of(slice + 1u); t++) {
        for (var k = 0u; k < params.ids_stride; k++) {
            let found = is_chosen(expert, t, k);
            if (found.x | found.y | found.z | found.w) != 0u {
                // a token has an expert once
                pairs[at] = vec4<u32>(t, t * params.top_k + 4u * k + dot(found, vec4<u32>(0u, 1u, 2u, 3u)), slot);
                at++;
            }
        }
    }
}
