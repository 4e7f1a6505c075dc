// Writes the sums of a thread. The kernel says where one goes: `write_sum(k, t, sum)` is for row `k` of the tile and its
// token `t`, and passes over what is beyond the last.

//import tile

fn write_row(k: u32, t: u32, sums: vec4<f32>) {
    write_sum(k, t, sums.x);
    write_sum(k, t + token_threads, sums.y);
    write_sum(k, t + 2u * token_threads, sums.z);
    write_sum(k, t + 3u * token_threads, sums.w);
}

fn write_sums(local: u32, sums: Sums) {
    let k = first_row(local);
    let t = first_token(local);
    write_row(k, t, sums.r0);
    if row_sums > 1u {
        write_row(k + row_threads, t, sums.r1);
    }
    if row_sums > 2u {
        write_row(k + 2u * row_threads, t, sums.r2);
        write_row(k + 3u * row_threads, t, sums.r3);
    }
    if row_sums > 4u {
        write_row(k + 4u * row_threads, t, sums.r4);
        write_row(k + 5u * row_threads, t, sums.r5);
        write_row(k + 6u * row_threads, t, sums.r6);
        write_row(k + 7u * row_threads, t, sums.r7);
    }
}
