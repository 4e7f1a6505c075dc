// Where heads are not turned, a thread has in `y` what it set.

fn turn_head(local: u32, dim: u32, back: bool) {
}
