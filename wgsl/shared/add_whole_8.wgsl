// What a unit of 8 x 8 adds to an output: threads do, Metal adds no such matrices.

enable f16;
enable wgpu_cooperative_matrix;

//import matrix_unit

// Of `unit` rows for `unit` tokens, all of which there are.
fn add_whole(local: u32, row: u32, token: u32, sums: Sums) {
    write_edge(local, row, token, sums);
}
