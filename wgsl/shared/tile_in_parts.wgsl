// What becomes of a tile of shared/tile_cooperative.wgsl in the products of experts: 32 tokens at a time are in workgroup
// memory, where threads find what they want. A kernel takes them: `take_sums(local, t)` is of the tokens from `t` on.

enable f16;
enable wgpu_cooperative_matrix;

//import tile_cooperative

override sum_stride: u32 = tile_rows + 8u; // from token to token, for banks
override kept_tokens: u32 = min(tile_tokens, 32u);
override kept_sums: u32 = kept_tokens * sum_stride;

var<workgroup> sums_of_tile: array<f32, kept_sums>; // [token, row]

// Subgroups share out the rows alone.
fn take_tile(
    local: u32,
    row: u32,
    first_token: u32,
    c00: coop_mat16x16<f32, C>,
    c01: coop_mat16x16<f32, C>,
    c02: coop_mat16x16<f32, C>,
    c03: coop_mat16x16<f32, C>,
    c10: coop_mat16x16<f32, C>,
    c11: coop_mat16x16<f32, C>,
    c12: coop_mat16x16<f32, C>,
    c13: coop_mat16x16<f32, C>,
) {
    coopStore(c00, &sums_of_tile[row], sum_stride);
    coopStore(c10, &sums_of_tile[row + 16u], sum_stride);
    if token_tiles > 1u {
        coopStore(c01, &sums_of_tile[16u * sum_stride + row], sum_stride);
        coopStore(c11, &sums_of_tile[16u * sum_stride + row + 16u], sum_stride);
    }
    workgroupBarrier();
    take_sums(local, first_token);
    if token_tiles > 2u {
        workgroupBarrier();
        coopStore(c02, &sums_of_tile[row], sum_stride);
        coopStore(c12, &sums_of_tile[row + 16u], sum_stride);
        coopStore(c03, &sums_of_tile[16u * sum_stride + row], sum_stride);
        coopStore(c13, &sums_of_tile[16u * sum_stride + row + 16u], sum_stride);
        workgroupBarrier();
        take_sums(local, first_token + 32u);
    }
}
