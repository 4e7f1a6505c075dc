// What becomes of a tile of shared/tile_cooperative.wgsl in the products of experts: the tokens of two units at a time are in
// workgroup memory, where threads find what they want. A kernel takes them: `take_sums(local, t)` is of those from `t` on.

enable f16;
enable wgpu_cooperative_matrix;

//import expert_tile
//import matrix_unit
//import tile_cooperative

override tile_parts: u32 = 1u; // that a workgroup makes of a tile of pairs, one after the other
override sum_stride: u32 = tile_rows + 8u; // from token to token, for banks
override kept_tokens: u32 = min(tile_tokens, 2u * unit);
override kept_sums: u32 = kept_tokens * sum_stride;

var<workgroup> sums_of_tile: array<f32, kept_sums>; // [token, row]

// The first part, or the next one: `tile_tokens` pairs. False where there are none.
fn take_part(part: u32) -> bool {
    let before = select(tile_tokens, 0u, part == 0u);
    if tile.y <= before {
        return false;
    }
    tile.x += before;
    tile.y -= before;
    return true;
}

// Subgroups share out the rows alone.
fn take_tile(
    local: u32,
    row: u32,
    first_token: u32,
    c00: Sums,
    c01: Sums,
    c02: Sums,
    c03: Sums,
    c10: Sums,
    c11: Sums,
    c12: Sums,
    c13: Sums,
) {
    coopStore(c00, &sums_of_tile[row], sum_stride);
    coopStore(c10, &sums_of_tile[row + unit], sum_stride);
    if token_tiles > 1u {
        coopStore(c01, &sums_of_tile[unit * sum_stride + row], sum_stride);
        coopStore(c11, &sums_of_tile[unit * sum_stride + row + unit], sum_stride);
    }
    workgroupBarrier();
    take_sums(local, first_token);
    if token_tiles > 2u {
        workgroupBarrier();
        coopStore(c02, &sums_of_tile[row], sum_stride);
        coopStore(c12, &sums_of_tile[row + unit], sum_stride);
        coopStore(c03, &sums_of_tile[unit * sum_stride + row], sum_stride);
        coopStore(c13, &sums_of_tile[unit * sum_stride + row + unit], sum_stride);
        workgroupBarrier();
        take_sums(local, first_token + 2u * unit);
    }
}
