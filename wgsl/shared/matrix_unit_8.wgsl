// Matrix units of 8 x 8, as Apple has them (simdgroup matrices). Metal loads them from numbers, not from quads, and does not say
// what one holds that nothing was written to.

enable f16;
enable wgpu_cooperative_matrix;

alias UnitA = coop_mat8x8<f16, A>;
alias UnitB = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;

const unit: u32 = 8u;
const cells: u32 = 4u; // elements of a quad

override row_cells: u32 = 4u * tile_rows * stride;
override token_cells: u32 = 4u * tile_tokens * stride;

var<workgroup> halves_of_rows: array<f16, row_cells>; // [row, quad of columns, block, 4]
var<workgroup> halves_of_tokens: array<f16, token_cells>; // [token, quad of columns, block, 4]
var<workgroup> zeros: array<f32, 64>;

fn keep_row_quad(at: u32, quad: vec4<f16>) {
    halves_of_rows[4u * at] = quad.x;
    halves_of_rows[4u * at + 1u] = quad.y;
    halves_of_rows[4u * at + 2u] = quad.z;
    halves_of_rows[4u * at + 3u] = quad.w;
}

fn keep_token_quad(at: u32, quad: vec4<f16>) {
    halves_of_tokens[4u * at] = quad.x;
    halves_of_tokens[4u * at + 1u] = quad.y;
    halves_of_tokens[4u * at + 2u] = quad.z;
    halves_of_tokens[4u * at + 3u] = quad.w;
}

// What `no_sums` needs.
fn prepare_sums(local: u32) {
    if local < 64u {
        zeros[local] = 0.0;
    }
    workgroupBarrier();
}

fn no_sums() -> Sums {
    return coopLoad<Sums>(&zeros[0], 8u);
}
