#!/usr/bin/env bash
# Builds flashflood.exe and runs it under Wine, with DirectX 12 on the software Vulkan driver.
#
#   targets/windows/wine.sh
#
# Kernels go the way that they go on Windows: WGSL, HLSL, Microsoft's DXC, DXIL, Direct3D 12. `flashflood check --quick`
# compares each with its CPU twin, and `flashflood run` must tell the story that it tells on Linux.
# Exit 0: so it is; 77: not checked, the last line says why; other: errors. Everything is in target/windows but packages,
# which are installed, and what cargo builds, which is in target/type-check.
set -euo pipefail
cd "$(dirname "$0")/../.."

not_checked() {
    echo "flashflood.exe did not run: $1"
    exit 77
}
. targets/standard-library.sh
. targets/windows/tools.sh

build() {
    local target=x86_64-pc-windows-gnu object
    standard_library $target
    local flags=''
    if [[ -n $library ]]; then
        # the objects around a program's own, which come with the toolchain and are not made with the library
        mkdir -p "$tools/rt"
        for object in rsbegin rsend; do
            rustc --target $target --edition 2021 --crate-type lib --emit obj -o "$tools/rt/$object.o" "$library/rtstartup/$object.rs"
        done
        flags="-L native=$tools/rt"
    fi
    echo "building flashflood.exe"
    CARGO_TARGET_DIR=$work/build CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=false \
        CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=$mingw-gcc CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS=$flags \
        cargo build --bin flashflood --target $target ${build_std[@]+"${build_std[@]}"}
    cp "$work/build/$target/debug/flashflood.exe" "$programs/"
}

# flashflood FOLDER ARGUMENTS...: with the DLLs of that folder.
flashflood() {
    wine_with_display "$1/flashflood.exe" "${@:2}"
}

# story FOLDER FORM: what it writes, and what that form of activations needs.
story() {
    flashflood "$1" run --device gpu --no-autotune --activations "$2" --raw "Once upon a time" --temp 0 -n 20 2>"$tools/run.err" || {
        cat "$tools/run.err" >&2
        exit 1
    }
}

prepare_dxc
prepare_random_bytes
prepare_d3d12
build
# without DXC it takes Vulkan
vulkan=$tools/without-dxc
mkdir -p "$vulkan"
cp "$programs"/{flashflood.exe,bcryptprimitives.dll} "$vulkan/"

echo "flashflood run"
beginning=$(sed -n 's/^const BEGINNING: &str = "\(.*\)";$/\1/p' tests/cli/run.rs)
[[ -n $beginning ]] || { echo "tests/cli/run.rs has no BEGINNING" && exit 1; }
for form in f32 int8; do
    by_dx12=$(story "$programs" $form)
    by_vulkan=$(story "$vulkan" $form)
    echo "DirectX 12, $form: $by_dx12"
    echo "Vulkan, $form: $by_vulkan"
    [[ $by_dx12 == "$by_vulkan" ]] || { echo "they differ" && exit 1; }
    # int8 takes another way at a tie
    [[ $form == int8 || $by_dx12 == "$beginning"* ]] || { echo "on Linux it is: $beginning" && exit 1; }
done

echo "flashflood check --quick"
rc=0
flashflood "$programs" check --quick >"$tools/check.txt" 2>"$tools/check.err" || rc=$?
cat "$tools/check.txt" "$tools/check.err"
[[ $rc == 0 ]] || { echo "flashflood check: exit $rc" && exit 1; }
grep -q '(Dx12, ' "$tools/check.txt" || { echo "another device than that of DirectX 12 was checked" && exit 1; }
