// A tile of integers has all columns in one part.

//import tile

fn sums_of_parts(thread: u32, own: Sums) -> Sums {
    return own;
}
