// What a workgroup does before its products: nothing.

fn prepare(local: u32) {}
