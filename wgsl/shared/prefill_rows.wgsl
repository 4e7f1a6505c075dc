// The rows of a tile of a prompt's attention: what they see of a window, and where each leaves what a split comes to. A kernel
// declares `scratch`, and `dim` and `dim4` of a head.

struct Params {
    tokens: u32, // of the run
    position: u32, // of its first token
    window_start: u32, // position of row 0 of the window
    window_rows: u32, // that are filled
    first_split: u32, // of the window, in the scratch
    splits: u32, // in the scratch
    tiles: u32, // of 32 rows, of a KV head
    first_split_row: u32, // of the window, of the first split of the dispatch
    reach: u32, // positions that a token sees, where there is a limit
}
var<immediate> params: Params;

override has_reach: u32 = 0u;
override heads: u32 = 8u;
override kv_heads: u32 = 2u;

// Rows of the window that row `row` of the KV head sees.
fn seen_by(row: u32) -> u32 {
    let positions = params.position + row / (heads / kv_heads) + 1u;
    return min(positions - min(params.window_start, positions), params.window_rows);
}

// Row of the window in front of which row `row` of the KV head sees nothing.
fn seen_from(row: u32) -> u32 {
    if has_reach == 0u {
        return 0u;
    }
    let positions = params.position + row / (heads / kv_heads) + 1u;
    let first = positions - min(params.reach, positions);
    return first - min(params.window_start, first);
}

// Which of the rows see a position of theirs.
fn is_seen(position: vec4<u32>, first: vec4<u32>, end: vec4<u32>) -> vec4<bool> {
    if has_reach == 0u {
        return position < end;
    }
    return (position >= first) & (position < end);
}

// Writes place `i` of what a row leaves: 0 is (max, sum, 0, 0), where weights may be relative to another number than the
// largest score, which attention_merge.wgsl takes alike.
fn leave(kv: u32, row: u32, split_index: u32, i: u32, v: vec4<f32>) {
    let of_key = heads / kv_heads;
    if row < params.tokens * of_key {
        let query = row / of_key * heads + kv * of_key + row % of_key;
        let first = kv_heads * params.tiles * dim * 8u;
        scratch[first + (query * params.splits + params.first_split + split_index) * (dim4 + 1u) + i] = v;
    }
}
