// What the products of experts with many tokens have in common: a workgroup layer takes a tile, pairs of one expert.

//import place

struct Params {
    rows: u32, // of the output: hidden, or of gate alone
    blocks: u32, // columns / 32
    grid_x: u32,
    first_tile: u32,
    slab: u32, // the one that is bound
    x_stride: u32, // in 16 bytes
    out_stride: u32,
    slot_words: u32,
    stream_0: u32, // in the slot: see shared/place.wgsl
    stream_1: u32,
    stream_2: u32,
}
var<immediate> params: Params;

// binding 0 is `x`, of the activations; 2 is `out`, of the kernel
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>; // [slots, slot_words] of a slab
@group(0) @binding(3) var<storage, read> pairs: array<vec4<u32>>; // (token, row of the pair, slot in the slab, slab)
@group(0) @binding(4) var<storage, read> tiles: array<vec4<u32>>; // (first pair, pairs, slot in the slab, slab)

var<private> tile: vec4<u32>;

// Takes the tile of a layer. There is none in room that no expert needs, nor for an expert of another slab.
fn take_expert_tile(layer: u32) -> bool {
    tile = tiles[params.first_tile + layer];
    return tile.y > 0u && tile.w == params.slab;
}

// Of the expert.
fn expert_matrix() -> Place {
    let slot = tile.z * params.slot_words;
    return Place(slot + params.stream_0, slot + params.stream_1, slot + params.stream_2);
}
