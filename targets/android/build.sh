#!/usr/bin/env bash
# Builds the C library and the program for Android (arm64), with Google's NDK.
#
#   targets/android/build.sh [--debug]
#
# ANDROID_NDK_HOME names the NDK, r27 or newer. Result: target/aarch64-linux-android/release/libflashflood_c.so for an app's
# jniLibs/arm64-v8a, and flashflood beside it for `adb shell`. README.md here says how to try it on a device.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() { sed -n '2,7s/^# \{0,1\}//p' targets/android/build.sh; }
stop() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

profile=(--release)
folder=release
case ${1:-} in
'') ;;
--debug) profile=() folder=debug ;;
-h | --help) usage && exit ;;
*) usage >&2 && exit 2 ;;
esac

target=aarch64-linux-android
# Vulkan 1.1 for sure, and what the NDK still has
api=29
[[ -n ${ANDROID_NDK_HOME:-} ]] || stop "ANDROID_NDK_HOME is not set" "it is the folder of the NDK: .../ndk/27.2.12479018"
compilers=("$ANDROID_NDK_HOME"/toolchains/llvm/prebuilt/*/bin/aarch64-linux-android$api-clang)
[[ -x ${compilers[0]} ]] || stop "$ANDROID_NDK_HOME has no aarch64-linux-android$api-clang" "install NDK r27: sdkmanager 'ndk;27.2.12479018'"
[[ -d $(rustc --print sysroot)/lib/rustlib/$target/lib ]] || stop "Rust's standard library for $target is not there" "rustup target add $target"

export CARGO_TARGET_AARCH64_LINUX_ANDROID_LINKER=${compilers[0]}
# devices with pages of 16 KiB load nothing that is aligned to less
export CARGO_TARGET_AARCH64_LINUX_ANDROID_RUSTFLAGS="-C link-arg=-Wl,-z,max-page-size=16384"
cargo rustc --package flashflood-c --lib --crate-type cdylib ${profile[@]+"${profile[@]}"} --target $target
cargo build --package flashflood --bins ${profile[@]+"${profile[@]}"} --target $target
ls -l "${CARGO_TARGET_DIR:-target}/$target/$folder/libflashflood_c.so" "${CARGO_TARGET_DIR:-target}/$target/$folder/flashflood"
