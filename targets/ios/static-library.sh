#!/usr/bin/env bash
# Builds the C library for iPhones on any machine with Rust, and checks what is in it. A library needs no linker.
#
#   targets/ios/static-library.sh
#
# library.py here says what is checked. Nothing is optimised: build-xcframework.sh makes the library that is shipped.
# Exit 0: right; 77: not checked, the last line says why; other: errors.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=aarch64-apple-ios
not_checked() {
    echo "the library for $target was not built: $1"
    exit 77
}
. targets/standard-library.sh

command -v python3 >/dev/null || not_checked "python3 is missing, which reads it"
standard_library $target
# as in build-xcframework.sh
export IPHONEOS_DEPLOYMENT_TARGET=17.0
# A dependency is a dynamic library as well, which nothing uses and only Apple's linker can make: `true` makes none.
echo "building libflashflood_c.a for $target"
CARGO_TARGET_DIR=$work/build CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=false \
    CARGO_TARGET_AARCH64_APPLE_IOS_LINKER=true cargo rustc --package flashflood-c --lib --crate-type staticlib --target $target ${build_std[@]+"${build_std[@]}"}
python3 targets/ios/library.py "$work/build/$target/debug/libflashflood_c.a" targets/c/flashflood.h targets/ios/apple-symbols.txt
