#!/usr/bin/env bash
# Builds the C library for iPhones, the simulator and Macs, as the XCFramework of Package.swift.
#
#   targets/ios/build-xcframework.sh [--debug] [--out FOLDER]
#
# Runs on a Mac with Xcode. Result: FOLDER/CFlashflood.xcframework, FOLDER/CFlashflood.xcframework.zip and its checksum,
# with FOLDER = targets/ios/build unless told.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() { sed -n '2,7s/^# \{0,1\}//p' targets/ios/build-xcframework.sh; }
stop() {
    printf 'error: %s\n' "$1" >&2
    [[ $# -lt 2 ]] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

profile=release
out=targets/ios/build
while [[ $# -gt 0 ]]; do
    case $1 in
    --debug) profile=dev && shift ;;
    --out)
        [[ $# -ge 2 ]] || stop "--out needs a folder"
        out=$2 && shift 2
        ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && stop "unknown argument $1" ;;
    esac
done

[[ $(uname) == Darwin ]] || stop "this needs a Mac" "targets/type-check.sh apple checks the Rust side anywhere"
xcodebuild -version >/dev/null 2>&1 ||
    stop "Xcode is not there" "install it, then: sudo xcode-select -s /Applications/Xcode.app"
command -v cargo >/dev/null || stop "cargo is not there" "https://rustup.rs installs Rust"
header=targets/c/flashflood.h
[[ -e $header ]] || stop "$header is missing" "it belongs to the repository: git status"

# the least systems that Package.swift names; residency sets are used where they are
export IPHONEOS_DEPLOYMENT_TARGET=17.0 MACOSX_DEPLOYMENT_TARGET=14.0
targets=(aarch64-apple-ios aarch64-apple-ios-sim aarch64-apple-darwin)
build=${CARGO_TARGET_DIR:-target}
folder=release
[[ $profile == release ]] || folder=debug

for target in "${targets[@]}"; do
    [[ -d $(rustc --print sysroot)/lib/rustlib/$target/lib ]] ||
        stop "Rust's standard library for $target is not there" "rustup target add $target"
    echo "cargo rustc for $target"
    cargo rustc --package flashflood-c --lib --crate-type staticlib --profile "$profile" --target "$target"
    [[ -e $build/$target/$folder/libflashflood_c.a ]] || stop "cargo made no $build/$target/$folder/libflashflood_c.a"
done

rm -rf "$out/CFlashflood.xcframework" "$out/CFlashflood.xcframework.zip" "$out/include"
# a folder of its own, so that two packages with a module.modulemap do not meet
mkdir -p "$out/include/CFlashflood"
cp "$header" "$out/include/CFlashflood/"
cp targets/ios/module.modulemap "$out/include/CFlashflood/"

libraries=()
for target in "${targets[@]}"; do
    libraries+=(-library "$build/$target/$folder/libflashflood_c.a" -headers "$out/include")
done
xcodebuild -create-xcframework "${libraries[@]}" -output "$out/CFlashflood.xcframework"

(cd "$out" && zip -qry -X CFlashflood.xcframework.zip CFlashflood.xcframework)
echo "built $out/CFlashflood.xcframework"
echo "checksum for .binaryTarget(url:checksum:) of $out/CFlashflood.xcframework.zip:"
shasum -a 256 "$out/CFlashflood.xcframework.zip" | cut -d ' ' -f 1
