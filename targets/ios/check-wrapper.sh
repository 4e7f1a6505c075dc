#!/usr/bin/env bash
# Compiles the Swift wrapper with a stand-in for the library, in Swift 6's strict mode, and runs it: events, cancelling,
# suspending, errors, nothing left open. Runs wherever there is Swift 6, without Rust, Xcode or a GPU.
#
#   targets/ios/check-wrapper.sh
#   targets/ios/check-wrapper.sh target/debug     also with the library in that folder, which cargo build -p flashflood-c made
#
# SWIFTC and CLANG name other compilers, HEADER another flashflood.h, LINK further arguments for linking.
set -euo pipefail
cd "$(dirname "$0")"

usage() { sed -n '2,8s/^# \{0,1\}//p' check-wrapper.sh; }
stop() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}
library=''
case ${1:-} in
'') ;;
-h | --help) usage && exit ;;
-*) usage >&2 && exit 2 ;;
*) library=$(cd "$OLDPWD" && cd "$1" && pwd) || stop "$1 is no folder" "cargo build -p flashflood-c, then target/debug" ;;
esac

swiftc=${SWIFTC:-swiftc}
clang=${CLANG:-clang}
header=${HEADER:-../c/flashflood.h}
command -v "$swiftc" >/dev/null || stop "$swiftc is not there" "https://www.swift.org/install"
command -v "$clang" >/dev/null || stop "$clang is not there" "it comes with Swift: CLANG=/path/to/clang"
[[ -e $header ]] || stop "$header is missing" "it belongs to the repository: git status"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$header" "$work/flashflood.h"
cp module.modulemap "$work/"
"$clang" -O1 -g -c -I "$work" Tests/stand-in/flashflood.c -o "$work/stand-in.o"
"$swiftc" -swift-version 6 -warnings-as-errors -Onone -module-name StandIn -I "$work" ${LINK:-} \
    Sources/Flashflood/*.swift Tests/stand-in/main.swift "$work/stand-in.o" -o "$work/check"
"$work/check"
if [[ -n $library ]]; then
    "$swiftc" -swift-version 6 -warnings-as-errors -Onone -module-name Library -I "$work" ${LINK:-} \
        Sources/Flashflood/*.swift Tests/library/main.swift -L "$library" -lflashflood_c \
        -Xlinker -rpath -Xlinker "$library" -o "$work/library"
    "$work/library"
fi
