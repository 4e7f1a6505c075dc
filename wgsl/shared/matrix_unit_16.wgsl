// Matrix units of 16 x 16, as NVIDIA has them: what they multiply lies in workgroup memory as quads.

enable f16;
enable wgpu_cooperative_matrix;

alias UnitA = coop_mat16x16<f16, A>;
alias UnitB = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

const unit: u32 = 16u;
const cells: u32 = 1u; // elements of a quad

override row_cells: u32 = tile_rows * stride;
override token_cells: u32 = tile_tokens * stride;

var<workgroup> halves_of_rows: array<vec4<f16>, row_cells>; // [row, quad of columns, block]
var<workgroup> halves_of_tokens: array<vec4<f16>, token_cells>; // [token, quad of columns, block]

fn keep_row_quad(at: u32, quad: vec4<f16>) {
    halves_of_rows[at] = quad;
}

fn keep_token_quad(at: u32, quad: vec4<f16>) {
    halves_of_tokens[at] = quad;
}

// What `no_sums` needs.
fn prepare_sums(local: u32) {}

fn no_sums() -> Sums {
    var sums: Sums;
    return sums;
}
