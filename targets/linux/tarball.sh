#!/usr/bin/env bash
# Packs the program for Linux: one folder with the program, manual pages, completions, the service and the licences.
#
#   targets/linux/tarball.sh [--program FILE] [--out FOLDER]
#
# Without --program it builds a release. Result: FOLDER/flashflood-VERSION-MACHINE-linux.tar.gz and its .sha256, with
# FOLDER = target/packages unless told. The same program gives the same bytes, whoever packs it and when. The program must
# run here, because it writes its own manual pages.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() { sed -n '2,8s/^# \{0,1\}//p' targets/linux/tarball.sh; }
stop() {
    printf 'error: %s\n' "$1" >&2
    [[ $# -lt 2 ]] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

program=
out=target/packages
while [[ $# -gt 0 ]]; do
    case $1 in
    --program | --out)
        [[ $# -ge 2 ]] || stop "$1 needs a value"
        if [[ $1 == --program ]]; then program=$2; else out=$2; fi
        shift 2
        ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && stop "unknown argument $1" ;;
    esac
done

[[ $(uname) == Linux ]] || stop "this needs Linux" "targets/macos and targets/windows are for the others"
tar --version 2>/dev/null | grep -q GNU || stop "tar is not GNU tar" "install it: others cannot sort"
if [[ -z $program ]]; then
    command -v cargo >/dev/null || stop "cargo is not there" "https://rustup.rs installs Rust; or give --program"
    cargo build --release --locked
    program=${CARGO_TARGET_DIR:-target}/release/flashflood
fi
[[ -x $program ]] || stop "$program is no program"
version=$("$program" --version | sed -n 's/^flashflood \([0-9][^ ]*\).*/\1/p') || true
[[ -n $version ]] || stop "$program --version does not give a version" "is it flashflood, for this machine?"

name=flashflood-$version-$(uname -m)-linux
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=$work/$name
mkdir -p "$folder"/{man/man1,completions,systemd}
install -m 755 "$program" "$folder/flashflood"
# debug information is more than half of it
if command -v strip >/dev/null; then strip --strip-debug "$folder/flashflood"; else echo "strip is not there: debug information stays in" >&2; fi
"$folder/flashflood" man --folder "$folder/man/man1"
for shell in bash zsh fish; do "$folder/flashflood" completions "$shell" >"$folder/completions/flashflood.$shell"; done
install -m 644 targets/linux/flashflood.service "$folder/systemd/"
install -m 644 README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$folder/"

# the oldest system it runs on
if command -v objdump >/dev/null; then
    least=$(objdump -T "$folder/flashflood" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
    echo "needs ${least:-no glibc} or newer"
fi

mkdir -p "$out"
packed=$(cd "$out" && pwd)/$name.tar.gz
# owners, times and order say nothing of who packed it
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$time" -cf - "$name" | gzip -9n >"$packed"
(cd "$(dirname "$packed")" && sha256sum "$(basename "$packed")" >"$name.tar.gz.sha256")

# what was packed starts, and finds nothing of this folder
tar -C "$work" -xzf "$packed" --one-top-level=again
(cd / && "$work/again/$name/flashflood" --version >/dev/null) || stop "the packed program does not start"
echo "$packed"
cat "$packed.sha256"
