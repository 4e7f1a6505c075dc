#!/usr/bin/env bash
# Looks for what unsafe code may do wrong without a test that fails: AddressSanitizer over the tests of the crates that have
# it, and of formats/, whose products are theirs; Miri over a part that it gets done with.
#
#   targets/sanitize.sh [address|miri]
#
# Without an argument both. Wants `rustup toolchain install nightly --component miri --component rust-src`, and for backends/
# a Vulkan driver, as ./test.sh does. Part of .ci/nightly: it takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
# builds of their own: what they are built with differs from everything else
build=${CARGO_TARGET_DIR:-target}/sanitize

address() {
    # the target is said so that procedural macros, which are not instrumented, are built apart
    # tests ask for more memory than there is: that is an answer, not a fault
    ASAN_OPTIONS=detect_leaks=$1:detect_stack_use_after_return=1:allocator_may_return_null=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$build \
        cargo +nightly test --target "$target" --lib --tests --no-fail-fast "${@:2}"
}

# Left out, because Miri takes a hundred to a thousand times as long: what looks at each of many thousand numbers, which is
# most of formats/ and all of backends/vectors. Left out, because Miri has no foreign functions: backends/ (maps, queued
# reads, Vulkan). The sets of instructions of a processor are AddressSanitizer's; Miri takes the portable one.
miri() {
    MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=$build cargo +nightly miri test -p flashflood-formats --lib -- \
        activations:: affine::tests:: names_go_to_files scales_that_are_no_numbers finds_the_first
}

case ${1:-all} in
address | miri | all) ;;
*) echo "usage: $0 [address|miri]" >&2 && exit 2 ;;
esac
if [[ ${1:-all} != miri ]]; then
    address 1 -p flashflood-vectors -p flashflood-formats
    # drivers of Vulkan keep what they took
    address 0 -p flashflood-backends
fi
[[ ${1:-all} == address ]] || miri
