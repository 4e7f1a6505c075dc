// Own heads that are stored as they are, or by what one thread sees of them.

fn prepare_cache(local: u32) {
}

fn prepare_reading(local: u32) {
}

// The thread of each quad has set it; others see it from here on.
fn ready_own(local: u32, count: u32) {
    workgroupBarrier();
}
