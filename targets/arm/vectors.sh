#!/usr/bin/env bash
# Runs the tests of backends/vectors for aarch64 under qemu: NEON, dotprod and i8mm against the portable form, bit for bit.
#
#   targets/arm/vectors.sh
#
# Exit 0: tested; 77: not tested, the last line says why; other: errors. Wants `rustup target add aarch64-unknown-linux-musl`,
# whose programs need no linker of the system, and qemu-aarch64 (Debian: qemu-user).
set -euo pipefail
cd "$(dirname "$0")/../.."

target=aarch64-unknown-linux-musl
if [[ ! -d $(rustc --print sysroot)/lib/rustlib/$target/lib ]]; then
    echo "there is no standard library for $target: rustup target add $target"
    exit 77
fi
if ! command -v qemu-aarch64 >/dev/null; then
    echo "qemu-aarch64 is not installed: apt-get install qemu-user"
    exit 77
fi
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER="qemu-aarch64 -cpu max"
cargo test -p flashflood-vectors --target $target
