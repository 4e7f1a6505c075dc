#!/usr/bin/env bash
# Everything that must hold before a change lands: ./test.sh --help says what.
# Runs under the bash 3.2 that macOS has.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'END'
./test.sh [--all] [--verbose]

Installs what the tests need where it can (a software Vulkan driver, spirv-val and clang, with apt-get on Debian and
Ubuntu; with --all also a browser, valgrind, nginx, a JDK and Kotlin), or says what to install. Then: format, lints, tests,
documentation, sizes of files and packages.

  --all       also licences and known faults of dependencies, with cargo-deny if it is installed, and what targets/ has
              for platforms that are not at hand (the default when CI=true): type-check for iOS, macOS, Windows and
              Android, build the library for iPhones, run ARM's vector instructions under qemu, compile the kernels with
              Microsoft's DXC under Wine, whose packages are installed; the first time takes ten minutes or so
  --verbose   show what every step prints, not only when it fails
END
}

all=no
verbose=no
[[ ${CI:-} == true ]] && all=yes
for argument in "$@"; do
    case $argument in
    --all) all=yes ;;
    --verbose) verbose=yes ;;
    -h | --help) usage && exit ;;
    *) echo "error: unknown argument $argument" >&2 && usage >&2 && exit 2 ;;
    esac
done

longest_file=500            # lines, in src, wgsl, formats and backends
largest_package=10485760    # bytes, each published crate; the registry takes 10 MiB
largest_golden=32000000     # bytes, tests/golden
largest_tree=$((64 << 20))  # bytes, what a clone checks out

# what is checked whole is seldom built again
[[ $all == yes ]] && export CARGO_INCREMENTAL=0

build=${CARGO_TARGET_DIR:-target}
logs=$build/test-logs
notes=$logs/notes
mkdir -p "$logs"

red='' green='' bold='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    red=$'\e[31m' green=$'\e[32m' bold=$'\e[1m' plain=$'\e[0m'
fi

# ---- what the tests need -------------------------------------------------------------------------------------------

stop() {
    printf '%serror:%s %s\n' "$red$bold" "$plain" "$1" >&2
    shift
    [[ $# -eq 0 ]] || printf 'hint: %s\n' "$@" >&2
    exit 1
}

require_rust() {
    command -v cargo >/dev/null || stop "cargo is not installed" "https://rustup.rs installs Rust"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    found=$(rustc -vV | sed -n 's/^release: \([0-9.]*\).*/\1/p')
    [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
        stop "rustc is $found, flashflood needs $wanted or newer" "rustup update"
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        stop "cargo fmt or cargo clippy is not installed" "rustup component add rustfmt clippy"
}

has_library() {
    local IFS=:
    [[ $(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null) == *"$1"* ]] ||
        [[ -n $(find ${LD_LIBRARY_PATH:-} /run/opengl-driver/lib -maxdepth 1 -name "$1" 2>/dev/null) ]]
}

# The manifests that the Vulkan loader reads, of drivers whose library exists.
vulkan_drivers() {
    local IFS=: places manifest library
    places=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}
    [[ -n $places ]] || places=/usr/share/vulkan/icd.d:/etc/vulkan/icd.d:/usr/local/share/vulkan/icd.d:/run/opengl-driver/share/vulkan/icd.d
    { find $places -name '*.json' 2>/dev/null || true; } | while read -r manifest; do
        library=$(sed -n 's/.*"library_path"[^"]*"\([^"]*\)".*/\1/p' "$manifest" | head -n 1)
        case $library in
        /*) [[ -e $library ]] || continue ;;
        */*) [[ -e $(dirname "$manifest")/$library ]] || continue ;;
        *) has_library "$library" || continue ;;
        esac
        echo "$manifest"
    done
}

# A clang that runs the kernels' Metal, and its ThreadSanitizer; as tests/inside/kernels/msl/clang.rs looks for it.
has_clang() {
    local name
    for name in clang++-{29,28,27,26,25,24,23,22,21,20,19} clang++; do
        command -v $name >/dev/null || continue
        printf '#if __clang_major__ < 19\n#error old\n#endif\nint main() {}\n' |
            $name -x c++ -fsanitize=thread -o /dev/null - 2>/dev/null && return 0
    done
    return 1
}

missing_packages() {
    command -v cc >/dev/null || echo gcc libc6-dev
    has_library libvulkan.so.1 || echo libvulkan1
    [[ -n $(vulkan_drivers) ]] || echo mesa-vulkan-drivers
    command -v spirv-val >/dev/null || echo spirv-tools
}

# Without these some tests say that they were skipped; with CI=true that is a failure.
missing_helpers() {
    has_clang || echo clang-19 libclang-rt-19-dev
    [[ $all == yes ]] || return 0
    # the page is tested in a browser, the C library under valgrind
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || echo chromium
    command -v valgrind >/dev/null || echo valgrind
    # replicas of the server stand behind it; it is where only root looks
    command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] || echo nginx-light
    # the Kotlin sample runs on a Java virtual machine
    command -v kotlinc >/dev/null && command -v javac >/dev/null || echo kotlin default-jdk-headless
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

as_root=''

# install PACKAGE ...: whether apt-get could
install() {
    echo "installing $*"
    # an update that fails for one of several sources may still be good enough
    $as_root apt-get -qq update || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >"$logs/apt.log" 2>&1
}

require_linux_packages() {
    local missing helpers
    missing=$(missing_packages | tr '\n' ' ')
    helpers=$(missing_helpers | tr '\n' ' ')
    [[ -n $missing$helpers ]] || return 0
    if ! command -v apt-get >/dev/null; then
        [[ -z $missing ]] && echo "some tests are skipped without what Debian calls: $helpers" && return 0
        stop "the tests need what Debian calls: $missing" \
            "Fedora: dnf install gcc vulkan-loader mesa-vulkan-drivers spirv-tools" \
            "Arch:   pacman -S gcc vulkan-icd-loader vulkan-swrast spirv-tools"
    fi
    if [[ $(id -u) != 0 ]]; then
        if ! sudo -n true 2>/dev/null; then
            [[ -z $missing ]] && echo "some tests are skipped; sudo apt-get install $helpers" && return 0
            stop "packages are missing and this is not root" "sudo apt-get install --no-install-recommends $missing"
        fi
        as_root='sudo -n'
    fi
    # words, not one
    # shellcheck disable=SC2086
    [[ -z $missing ]] || install $missing || {
        cat "$logs/apt.log"
        stop "apt-get could not install $missing"
    }
    # shellcheck disable=SC2086
    [[ -z $helpers ]] || install $helpers || echo "apt-get could not install all of $helpers ($logs/apt.log)"
    missing=$(missing_packages | tr '\n' ' ')
    [[ -z $missing ]] ||
        stop "still missing after apt-get: $missing" \
            "VK_DRIVER_FILES and VK_ICD_FILENAMES hide all other drivers; now: ${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-not set}}"
}

require_rust
case $(uname -s) in
Linux) require_linux_packages ;;
Darwin) command -v spirv-val >/dev/null || echo "spirv-val is not installed: brew install spirv-tools" ;;
*) echo "the tests need a GPU or software driver for Vulkan or DX12, and spirv-val (Vulkan SDK) on the PATH" ;;
esac

# ---- steps ---------------------------------------------------------------------------------------------------------

failed=''
not_checked=''

seconds() {
    local all=$1
    if ((all < 60)); then echo "$all s"; else echo "$((all / 60)) min $((all % 60)) s"; fi
}

# note LINE: printed under the step's own line.
note() {
    echo "  $*" >>"$notes"
}

# What a failed step printed that matters: what failing tests say, which lies anywhere in a run of many targets, then
# the end.
failure() {
    awk '/^failures:$/ { on = 1 } /^test result:/ { on = 0 } on && lines++ < 200' "$1"
    tail -n 80 "$1"
}

# step NAME COMMAND...: one line with the time it took, the log's failures and end when it fails. Later steps run all the same.
step() {
    local name=$1 log=$logs/$1.log start rc took
    shift
    : >"$notes"
    printf '%-10s ' "$name"
    start=$(date +%s)
    # a subshell outside any condition: there `set -e` still ends it at the first failure
    set +e
    if [[ $verbose == yes ]]; then
        echo
        (set -e && "$@") </dev/null 2>&1 | tee "$log"
        rc=${PIPESTATUS[0]}
    else
        (set -e && "$@") </dev/null >"$log" 2>&1
        rc=$?
    fi
    set -e
    took=$(seconds $(($(date +%s) - start)))
    case $rc in
    0) printf '%sok%s  %s\n' "$green" "$plain" "$took" ;;
    77) # said again in capitals at the end
        not_checked="$not_checked$name: $(tail -n 1 "$log")"$'\n'
        printf '%sNOT CHECKED%s  %s\n' "$red$bold" "$plain" "$took"
        ;;
    *)
        failed="$failed $name"
        printf '%sFAILED%s  %s\n' "$red$bold" "$plain" "$took"
        [[ $verbose == yes ]] || failure "$log" | sed 's/^/  | /'
        echo "  | all of it: $log"
        ;;
    esac
    cat "$notes"
}

run_tests() {
    # public clients of the server are installed from PyPI; elsewhere these tests pass without them
    if [[ ${CI:-} == true ]] && python3 -c 'import ensurepip, urllib.request as u; u.urlopen("https://pypi.org/simple/openai/", timeout=20)' 2>/dev/null; then
        export FLASHFLOOD_CLIENT_TESTS=${FLASHFLOOD_CLIENT_TESTS:-require}
    fi
    cargo test --workspace --no-fail-fast 2>&1 | tee "$logs/results"
    note "$(awk '/^test result:/ { passed += $4; ignored += $8 } END { print passed " passed, " ignored " ignored" }' "$logs/results")"
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
}

sources() {
    find "$1" \( -name '*.rs' -o -name '*.wgsl' \) -type f -print0
}

count_lines() {
    local folder too_long
    for folder in src wgsl formats backends tests; do
        [[ -d $folder ]] || continue
        note "$(printf '%-9s %6d lines in %3d files' "$folder" \
            "$(sources "$folder" | xargs -0 cat | wc -l)" "$(sources "$folder" | tr -cd '\0' | wc -c)")"
    done
    too_long=$(for folder in src wgsl formats backends; do
        [[ -d $folder ]] || continue
        sources "$folder" | xargs -0 wc -l | awk -v most=$longest_file '$2 != "total" && $1 > most { print "  " $2 ": " $1 " lines" }'
    done)
    if [[ -n $too_long ]]; then
        printf 'longer than %s lines (split by subject):\n%s\n' "$longest_file" "$too_long"
        exit 1
    fi
}

# Files that are tracked or would be; in an unpacked archive, all but the build folder.
tree() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard -z "$@"
    else
        find "${@:-.}" -path ./target -prune -o -type f -print0
    fi
}

# at_most BYTES WHAT FOUND
at_most() {
    note "$(printf '%-24s %6d kB of %d kB' "$2" $(($3 / 1000)) $(($1 / 1000)))"
    if (($3 > $1)); then
        echo "$2: $3 bytes, at most $1 are allowed"
        exit 1
    fi
}

count_bytes() {
    # files that are deleted but still tracked are not counted
    at_most $largest_tree "a clone" "$(tree | { xargs -0 cat 2>/dev/null || true; } | wc -c)"
    [[ ! -d tests/golden ]] || at_most $largest_golden tests/golden "$(tree tests/golden | { xargs -0 cat 2>/dev/null || true; } | wc -c)"
}

package() {
    rm -f "$build"/package/*.crate
    cargo package --workspace --no-verify --allow-dirty
    local crate
    for crate in "$build"/package/*.crate; do
        at_most $largest_package "${crate##*/}" "$(wc -c <"$crate")"
    done
}

# What may be depended on (deny.toml). cargo-deny is not installed here: building it takes two cores more
# than two minutes, and GitHub's machines get it built (.github/workflows).
dependencies() {
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "cargo-deny is not installed: cargo install --locked cargo-deny"
        [[ ${GITHUB_ACTIONS:-} != true ]] || exit 1
        exit 77
    fi
    cargo deny check licenses bans sources
    # known faults are a list on GitHub, which cannot be reached from everywhere
    if ! cargo deny fetch db; then
        note "known faults (advisories) were not looked for: their list cannot be fetched"
        [[ ${GITHUB_ACTIONS:-} != true ]] || exit 1
        return
    fi
    cargo deny check advisories
}

begin=$(date +%s)
step format cargo fmt --all --check -- --color never
step lints cargo clippy --workspace --all-targets -- -D warnings
step "lints of the library alone" cargo clippy --no-default-features -- -D warnings
step tests run_tests
step docs documentation
step lines count_lines
step bytes count_bytes
step package package
if [[ $all == yes ]]; then
    step deps dependencies
    for platform in apple windows android; do step $platform targets/type-check.sh $platform; done
    step iphone targets/ios/static-library.sh
    step hlsl targets/windows/hlsl.sh
    step arm targets/arm/vectors.sh
    step kotlin targets/android/kotlin.sh
    step page targets/page/build.sh --check
fi

took=$(seconds $(($(date +%s) - begin)))
if [[ -n $not_checked ]]; then
    printf '\n%s!!! NOT CHECKED: %s%s\n' "$red$bold" "${not_checked%$'\n'}" "$plain"
fi
[[ -z $failed ]] || stop "failed after $took:$failed"
printf '\n%sall steps passed%s in %s\n' "$green$bold" "$plain" "$took"
