// Pairs of a prompt by expert, and the tiles of each: the second stage, behind expert_count.wgsl. What the host does where
// experts are read (`routing.rs`), without a wait for the router.
// pairs = (token, token * top_k + k, place, slab), experts in order, tokens in order
// tiles = (first pair, pairs, place, slab): room for small ones, for middle ones, for large ones; what is left has no pairs
// A workgroup has 8 experts, a thread one of them and one slice of the tokens.

//import chosen

override small: u32 = 16u; // tokens of a tile
override middle: u32 = 32u;
override large: u32 = 64u;

@group(0) @binding(0) var<storage, read> ids: array<vec4<u32>>; // [tokens, top_k], rows of whole vec4s
@group(0) @binding(1) var<storage, read> counts: array<vec4<u32>>; // [experts, 32 / 4]
@group(0) @binding(2) var<storage, read> slots: array<vec2<u32>>; // (place, slab) of every expert
@group(0) @binding(3) var<storage, read_write> pairs: array<vec4<u32>>; // [tokens * top_k]
@group(0) @binding(4) var<storage, read_write> tiles: array<vec4<u32>>; // [small_tiles + middle_tiles + large_tiles]

var<workgroup> pairs_of: array<u32, 1024>; // of each expert
var<workgroup> before: array<vec4<u32>, 256>; // (pairs, small, middle, large tiles) of a thread's experts, then of all up to them

fn count_of(expert: u32) -> u32 {
    var sum = vec4<u32>();
    for (var i = 0u; i < 8u; i++) {
        sum += counts[expert * 8u + i];
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

// Tiles of so many pairs: small, middle, large. A rest that one of the smaller ones holds is its.
fn tiles_of(count: u32) -> vec3<u32> {
    let large_ones = (max(count, middle) - middle + large - 1u) / large;
    let rest = count - min(count, large_ones * large);
    let is_middle = rest > small;
    return vec3<u32>(u32(rest > 0u && !is_middle), u32(is_middle), large_ones);
}

fn add_up(count: u32) -> vec4<u32> {
    return vec4<u32>(count, tiles_of(count));
}

@compute @workgroup_size(256)
fn expert_group(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    // experts in a row are a thread's: at most four, of 1024
    let each = (params.experts + 255u) / 256u;
    var mine = vec4<u32>();
    for (var e = local * each; e < min(local * each + each, params.experts); e++) {
        let count = count_of(e);
        pairs_of[e] = count;
        mine += add_up(count);
    }
    before[local] = mine;
    workgroupBarrier();
    for (var step = 1u; step < 256u; step *= 2u) {
        var more = vec4<u32>();
        if local >= step {
            more = before[local - step];
        }
        workgroupBarrier();
        before[local] += more;
        workgroupBarrier();
    }
    // what no expert needs
    let used = before[255].yzw;
    let first_large = params.small_tiles + params.middle_tiles;
    for (var i = group.x * 256u + local; i < first_large + params.large_tiles; i += params.groups * 256u) {
        var is_used = i < used.x;
        if i >= first_large {
            is_used = i - first_large < used.z;
        } else if i >= params.small_tiles {
            is_used = i - params.small_tiles < used.y;
        }
        if !is_used {
            tiles[i] = vec4<u32>();
        }
    }
    let expert = group.x * 8u + local / 32u;
    if expert >= params.experts {
        return;
    }
    let slice = local % 32u;
    let thread = expert / each;
    var start = vec4<u32>();
    if thread > 0u {
        start = before[thread - 1u];
    }
    for (var e = thread * each; e < expert; e++) {
        start += add_up(pairs_of[e]);
    }
    let slot = slots[params.first_slot + expert];
    let count = pairs_of[expert];
    let own = tiles_of(count);
    for (var i = slice; i < own.z; i += 32u) {
        let done = i * large;
        tiles[first_large + start.w + i] = vec4<u32>(start.x + done, min(count - done, large), slot);
    }
    if slice == 0u && own.x + own.y > 0u {
        let done = own.z * large;
        let at = select(params.small_tiles + start.z, start.y, own.x == 1u);
        tiles[at] = vec4<u32>(start.x + done, count - done, slot);
    }
    var at = start.x;
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
