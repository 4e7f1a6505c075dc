#!/usr/bin/env bash
# Signs the program for macOS, has Apple notarise it, and packs it.
#
#   targets/macos/sign-and-notarise.sh [--program FILE] [--out FOLDER]
#
# Runs on a Mac with Xcode. Without --program it builds a release for Apple silicon. Result:
# FOLDER/flashflood-VERSION-arm64-macos.tar.gz and its .sha256, with FOLDER = target/packages unless told.
#
#   SIGN_IDENTITY    a certificate of the keychain: "Developer ID Application: Name (TEAM)"
#   NOTARY_PROFILE   made once by: xcrun notarytool store-credentials NAME --apple-id .. --team-id .. --password ..
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() { sed -n '2,10s/^# \{0,1\}//p' targets/macos/sign-and-notarise.sh; }
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

# everything that can be missing is looked for before anything is built
[[ $(uname) == Darwin ]] || stop "this needs a Mac" "a package for Linux: targets/linux/tarball.sh"
xcrun --find notarytool >/dev/null 2>&1 || stop "notarytool is not there" "install Xcode 13 or newer"
[[ -n ${SIGN_IDENTITY:-} ]] || stop "SIGN_IDENTITY is not set" "security find-identity -v -p codesigning lists them"
security find-identity -v -p codesigning | grep -qF "$SIGN_IDENTITY" ||
    stop "the keychain has no valid '$SIGN_IDENTITY'" "security find-identity -v -p codesigning lists them"
[[ $SIGN_IDENTITY == "Developer ID Application"* ]] ||
    stop "'$SIGN_IDENTITY' is no Developer ID Application certificate" "Apple notarises nothing that others sign"
[[ -n ${NOTARY_PROFILE:-} ]] || stop "NOTARY_PROFILE is not set" "xcrun notarytool store-credentials makes one"
xcrun notarytool history --keychain-profile "$NOTARY_PROFILE" >/dev/null 2>&1 ||
    stop "Apple does not accept the profile '$NOTARY_PROFILE'" "xcrun notarytool store-credentials $NOTARY_PROFILE"

if [[ -z $program ]]; then
    command -v cargo >/dev/null || stop "cargo is not there" "https://rustup.rs installs Rust; or give --program"
    MACOSX_DEPLOYMENT_TARGET=14.0 cargo build --release --locked --target aarch64-apple-darwin
    program=${CARGO_TARGET_DIR:-target}/aarch64-apple-darwin/release/flashflood
fi
[[ -x $program ]] || stop "$program is no program"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$program" "$work/flashflood"
strip -S "$work/flashflood"
version=$("$work/flashflood" --version | sed -n 's/^flashflood \([0-9][^ ]*\).*/\1/p') || true
[[ -n $version ]] || stop "$program --version does not give a version"

echo "signing"
# the hardened runtime, which notarising demands; the program needs none of its exceptions: Metal compiles shaders in a
# process of the system's
codesign --force --options runtime --timestamp --identifier org.flashflood.flashflood --sign "$SIGN_IDENTITY" "$work/flashflood"
codesign --verify --strict --verbose=2 "$work/flashflood"
"$work/flashflood" run --max-tokens 4 --raw "Once" >/dev/null || stop "the signed program does not run"

echo "notarising, which takes minutes"
ditto -c -k "$work/flashflood" "$work/flashflood.zip"
xcrun notarytool submit "$work/flashflood.zip" --keychain-profile "$NOTARY_PROFILE" --wait --output-format json >"$work/answer.json"
status=$(plutil -extract status raw -o - "$work/answer.json")
id=$(plutil -extract id raw -o - "$work/answer.json")
if [[ $status != Accepted ]]; then
    xcrun notarytool log "$id" --keychain-profile "$NOTARY_PROFILE" >&2
    stop "Apple says $status" "the log above names the reason"
fi
# a ticket can be stapled to apps, packages and disk images, not to a bare program: macOS asks Apple when it first starts
codesign --test-requirement="=notarized" --verify --verbose "$work/flashflood" || stop "the notarised program is not known as such" "wait a minute and try again"

name=flashflood-$version-arm64-macos
mkdir -p "$out" "$work/$name/man/man1" "$work/$name/completions"
cp "$work/flashflood" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$work/$name/"
"$work/flashflood" man --folder "$work/$name/man/man1"
for shell in bash zsh fish; do "$work/flashflood" completions "$shell" >"$work/$name/completions/flashflood.$shell"; done
tar -C "$work" -czf "$out/$name.tar.gz" "$name"
(cd "$out" && shasum -a 256 "$name.tar.gz" | tee "$name.tar.gz.sha256")
echo "$out/$name.tar.gz"
