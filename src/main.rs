//! The `flashflood` binary.
fn main() {}
