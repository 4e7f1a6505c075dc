#!/usr/bin/env bash
# Type-checks the workspace for other platforms, from any machine with Rust.
#
#   targets/type-check.sh apple|windows    exit 0: checked   77: not checked, the last line says why   other: errors
#
# A check needs the target's standard library. In order of preference:
#   1. the toolchain has it (`rustup target add aarch64-apple-ios aarch64-apple-darwin x86_64-pc-windows-msvc`);
#   2. the toolchain has the library's sources (`rustup component add rust-src`): cargo builds it;
#   3. Debian publishes the sources of this very compiler version: they are unpacked, not installed.
# Everything that is written goes to target/type-check; the machine's packages and apt lists stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$PWD/target/type-check
sysroot=$(rustc --print sysroot)
release=$(rustc -vV | sed -n 's/^release: //p')
debian_suite=trixie-backports
debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg

not_checked() {
    echo "no standard library of rustc $release for $target: $1"
    exit 77
}

# apt with lists, cache and settings of its own. Of the machine's settings only the network ones are taken over:
# the others may hold hooks that clean the machine's caches.
own_apt() {
    APT_CONFIG=$work/apt/apt.conf "$@"
}

write_apt_settings() {
    local mirror
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 || true)
    mirror=${mirror%% *}
    mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,parts}
    echo "deb [signed-by=$debian_keys] ${mirror:-http://deb.debian.org/debian} $debian_suite main" >"$work/apt/sources.list"
    {
        apt-config dump | grep -E '^Acquire::(http|https|Check-)' || true
        echo "Dir::Etc::Main \"/dev/null\"; Dir::Etc::Parts \"$work/apt/parts\";"
        echo "Dir::Etc::SourceList \"$work/apt/sources.list\"; Dir::Etc::SourceParts \"$work/apt/parts\";"
        echo "Dir::State::Lists \"$work/apt/lists\"; Dir::Cache \"$work/apt/cache\";"
        # root's helper account may not be allowed to write here
        echo 'APT::Sandbox::User ""; Acquire::Languages "none";'
    } >"$work/apt/apt.conf"
}

# Leaves the standard library's sources in $work/rust-RELEASE/library.
fetch_debian_sources() {
    [[ -e $work/rust-$release/library/std/Cargo.toml ]] && return
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || not_checked "this is not a Debian system"
    [[ -e $debian_keys ]] || not_checked "$debian_keys is missing (package debian-archive-keyring)"

    echo "looking for the sources of rustc $release in Debian $debian_suite"
    write_apt_settings
    own_apt apt-get -qq update || not_checked "Debian's $debian_suite cannot be read"
    local version
    version=$(own_apt apt-cache madison rust-src | awk -v want="$release+" 'index($3, want) == 1 && !found { print $3; found = 1 }')
    [[ -n $version ]] || not_checked "Debian's $debian_suite has no rust-src $release"

    local unpacked=$work/unpacking
    rm -rf "$unpacked" && mkdir -p "$unpacked"
    (cd "$unpacked" && own_apt apt-get -qq download "rust-src=$version") || not_checked "rust-src $version cannot be downloaded"
    dpkg-deb --fsys-tarfile "$unpacked"/rust-src_*.deb | tar -x -C "$unpacked" "./usr/src/rustc-$release/library"
    # by a rename, so that an interrupted run leaves nothing that looks complete
    rm -rf "${work:?}/rust-$release"
    mv "$unpacked/usr/src/rustc-$release" "$work/rust-$release"
    rm -rf "$unpacked"
}

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
    local build=()
    if [[ ! -d $sysroot/lib/rustlib/$target/lib ]]; then
        if [[ ! -e $sysroot/lib/rustlib/src/rust/library/std/Cargo.toml ]]; then
            fetch_debian_sources
            # where cargo looks for the sources instead of the sysroot; internal to cargo
            export __CARGO_TESTS_ONLY_SRC_ROOT=$work/rust-$release/library
        fi
        # lets the stable compiler build its own standard library
        export RUSTC_BOOTSTRAP=1
        build=(-Zbuild-std=std,panic_unwind)
    fi
    echo "cargo check for $target"
    CARGO_TARGET_DIR=$work/build cargo check --workspace --target "$target" "$@" ${build[@]+"${build[@]}"}
}

case ${1:-} in
apple)
    check aarch64-apple-ios --lib
    check aarch64-apple-darwin --lib --bins
    ;;

windows) check x86_64-pc-windows-msvc --lib --bins ;;
*) echo "usage: $0 apple|windows" >&2 && exit 2 ;;
esac
