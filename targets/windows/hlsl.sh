#!/usr/bin/env bash
# Compiles the HLSL of every kernel, in every format, with Microsoft's DXC and its validator, under Wine.
#
#   targets/windows/hlsl.sh
#
# tests/shaders.rs writes the HLSL as wgpu does: for shader model 6.0 with runtime checks, and for 6.8 without.
# Exit 0: all compile; 77: not checked, the last line says why; other: errors. Everything but packages is in target/windows.
set -euo pipefail
cd "$(dirname "$0")/../.."

not_checked() {
    echo "the kernels' HLSL was not compiled: $1"
    exit 77
}
. targets/standard-library.sh
. targets/windows/tools.sh

prepare_dxc
prepare_random_bytes
$mingw-gcc -Wall -O1 -o "$programs/dxc.exe" targets/windows/dxc.c

rm -rf "$tools/hlsl" && mkdir -p "$tools/hlsl"
FLASHFLOOD_HLSL=$tools/hlsl cargo test -q --lib shaders::lowers_to_hlsl
[[ -s $tools/hlsl/list ]] || { echo "tests/shaders.rs wrote no HLSL" && exit 1; }

# the list names its files without a folder; a process for each of two cores
cd "$tools/hlsl"
for part in 0 1; do
    (awk "NR % 2 == $part" list | wine "$programs/dxc.exe" dxcompiler.dll >"said.$part" 2>&1) &
    parts[part]=$!
done
rc=0
for part in 0 1; do
    wait "${parts[part]}" || rc=1
    tr -d '\r' <"said.$part"
done
exit $rc
