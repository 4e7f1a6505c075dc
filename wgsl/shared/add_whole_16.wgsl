// What a unit of 16 x 16 adds to an output: by itself.

enable f16;
enable wgpu_cooperative_matrix;

//import matrix_unit

// Of `unit` rows for `unit` tokens, all of which there are.
fn add_whole(local: u32, row: u32, token: u32, sums: Sums) {
    // naga 30 evaluates what a store is given only if it has a name
    let out_stride = params.out_stride;
    let at = params.out_offset + token * out_stride + row;
    let all = coopLoad<Sums>(&out[at], out_stride) + sums;
    coopStore(all, &out[at], out_stride);
}
