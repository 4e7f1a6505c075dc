#!/usr/bin/env bash
# Type-checks the workspace for other platforms, from any machine with Rust.
#
#   targets/type-check.sh apple|windows|android
#
# Exit 0: checked; 77: not checked, the last line says why; other: errors. standard-library.sh here says where the targets'
# standard libraries come from.
set -euo pipefail
cd "$(dirname "$0")/.."

not_checked() {
    echo "no standard library of rustc $release for $target: $1"
    exit 77
}
. targets/standard-library.sh

# A C compiler for another platform exists only with its SDK, so nothing in the tree may need one.
refuse_c_code() {
    local found
    found=$(cargo tree --workspace --edges normal,build --target "$target" --prefix none |
        awk '$1 ~ /^(cc|cmake|bindgen|pkg-config|vcpkg|nasm-rs)$/ { print "  " $1 " " $2 }' | sort -u)
    if [[ -n $found ]]; then
        printf 'the dependency tree of %s builds C code (cargo tree --target %s -i NAME says who):\n%s\n' "$target" "$target" "$found"
        exit 1
    fi
}

# check TARGET CARGO-ARGUMENTS...
check() {
    target=$1
    shift
    refuse_c_code
    standard_library "$target"
    echo "cargo check for $target"
    CARGO_TARGET_DIR=$work/build cargo check --workspace --target "$target" "$@" ${build_std[@]+"${build_std[@]}"}
}

case ${1:-} in
apple)
    check aarch64-apple-ios --lib
    check aarch64-apple-darwin --lib --bins
    ;;

windows) check x86_64-pc-windows-msvc --lib --bins ;;
android) check aarch64-linux-android --lib --bins ;;
*) echo "usage: $0 apple|windows|android" >&2 && exit 2 ;;
esac
