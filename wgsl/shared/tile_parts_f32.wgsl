// Adds up the sums of a tile of f32 over the parts of its columns, where the rows have been in workgroup memory.

//import tile

// The sum of what the threads of all parts have that have the place of this one in theirs.
fn sum_of_parts(thread: u32, own: vec4<f32>) -> vec4<f32> {
    rows_of_tile[thread] = own;
    workgroupBarrier();
    let local = thread % part_threads;
    var sum = rows_of_tile[local];
    for (var other = 1u; other < column_parts; other++) {
        sum += rows_of_tile[other * part_threads + local];
    }
    workgroupBarrier();
    return sum;
}

// What the threads of the first part have then are the sums over all columns. All threads of a workgroup call it together.
fn sums_of_parts(thread: u32, own: Sums) -> Sums {
    var sums = own;
    if column_parts == 1u {
        return sums;
    }
    sums.r0 = sum_of_parts(thread, own.r0);
    if row_sums > 1u {
        sums.r1 = sum_of_parts(thread, own.r1);
    }
    if row_sums > 2u {
        sums.r2 = sum_of_parts(thread, own.r2);
        sums.r3 = sum_of_parts(thread, own.r3);
    }
    if row_sums > 4u {
        sums.r4 = sum_of_parts(thread, own.r4);
        sums.r5 = sum_of_parts(thread, own.r5);
        sums.r6 = sum_of_parts(thread, own.r6);
        sums.r7 = sum_of_parts(thread, own.r7);
    }
    return sums;
}
