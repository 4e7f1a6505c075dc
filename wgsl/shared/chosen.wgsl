// What tokens of a prompt chose, for the kernels that group pairs by expert. A kernel declares `ids`.

// Of both: what the first does not read is of the second.
struct Params {
    experts: u32,
    tokens: u32,
    top_k: u32,
    ids_stride: u32, // in vec4s
    first_slot: u32, // of the layer
    tiny_tiles: u32, // room for so many
    small_tiles: u32, // behind them, and so on
    middle_tiles: u32,
    large_tiles: u32,
    groups: u32, // workgroups
}
var<immediate> params: Params;

// The first token of a slice.
fn first_of(slice: u32) -> u32 {
    let each = (params.tokens + 31u) / 32u;
    return min(slice * each, params.tokens);
}

// 1 for each of places 4k to 4k + 3 of a token that has the expert.
fn is_chosen(expert: u32, token: u32, k: u32) -> vec4<u32> {
    let place = vec4<u32>(4u * k) + vec4<u32>(0u, 1u, 2u, 3u);
    let found = (ids[token * params.ids_stride + k] == vec4<u32>(expert)) & (place < vec4<u32>(params.top_k));
    return select(vec4<u32>(), vec4<u32>(1u), found);
}
