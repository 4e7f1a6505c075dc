// There are no signs apart from codes.

fn keep_signs(local: u32) {}
