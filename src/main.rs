//! The `flashflood` binary.

mod cli;

use std::process::ExitCode;

/// So that the end of a program whose memory is short has a reason and a hint.
#[global_allocator]
static ALLOCATOR: flashflood_backends::RememberingAllocator = flashflood_backends::RememberingAllocator;

fn main() -> ExitCode {
    cli::main()
}
