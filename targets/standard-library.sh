# Rust's standard library for targets that the toolchain has none of: for scripts that say `. targets/standard-library.sh`.
# In order of preference:
#   1. the toolchain has it (`rustup target add TARGET`);
#   2. the toolchain has the library's sources (`rustup component add rust-src`): cargo builds it;
#   3. Debian publishes the sources of this very compiler version: they are unpacked, not installed.
#
# Everything that is written goes to target/type-check; the machine's packages and apt lists stay as they are. The including
# script defines `not_checked REASON`, which ends it with 77.

work=$PWD/target/type-check
sysroot=$(rustc --print sysroot)
release=$(rustc -vV | sed -n 's/^release: //p')
debian_suite=trixie-backports
. targets/debian.sh

# Leaves the standard library's sources in $work/rust-RELEASE/library.
fetch_debian_sources() {
    [[ -e $work/rust-$release/library/std/Cargo.toml ]] && return
    echo "looking for the sources of rustc $release in Debian $debian_suite"
    read_suite $debian_suite
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

# standard_library TARGET: sets the array `build_std` to what cargo must be told, and `library` to the sources when it builds.
standard_library() {
    build_std=()
    library=
    [[ ! -d $sysroot/lib/rustlib/$1/lib ]] || return 0
    library=$sysroot/lib/rustlib/src/rust/library
    if [[ ! -e $library/std/Cargo.toml ]]; then
        fetch_debian_sources
        library=$work/rust-$release/library
        # where cargo looks for the sources instead of the sysroot; internal to cargo
        export __CARGO_TESTS_ONLY_SRC_ROOT=$library
    fi
    # lets the stable compiler build its own standard library
    export RUSTC_BOOTSTRAP=1
    build_std=(-Zbuild-std=std,panic_unwind)
}
