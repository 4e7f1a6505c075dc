#!/usr/bin/env bash
# Compiles the Kotlin sample and its JNI, and tests both on a Java virtual machine with the C library of this machine, JNI's
# own checks on.
#
#   targets/android/kotlin.sh
#
# Exit 0: tested; 77: not tested, the last line says why; other: errors. Wants kotlinc, a JDK and a C compiler (Debian: kotlin and
# default-jdk-headless).
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in kotlinc java javac cc; do
    if ! command -v $program >/dev/null; then
        echo "$program is not installed: apt-get install kotlin default-jdk-headless gcc"
        exit 77
    fi
done
build=${CARGO_TARGET_DIR:-target}
cargo rustc --quiet --package flashflood-c --lib --crate-type cdylib
made=$build/kotlin
rm -rf "$made"
mkdir -p "$made/state"
jdk=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
cc -std=c11 -Wall -Wextra -Wno-unused-parameter -Werror -fPIC -shared -I "$jdk/include" -I "$jdk/include/linux" -I targets/c \
    targets/android/kotlin/flashflood_jni.c -o "$made/libflashflood_jni.so" \
    -L "$build/debug" -lflashflood_c "-Wl,-rpath,$(cd "$build/debug" && pwd)"
kotlinc -nowarn -include-runtime -d "$made/test.jar" targets/android/kotlin/*.kt 2>&1 | grep -v '^WARNING' || true
[[ -f $made/test.jar ]] || { echo "kotlinc made nothing"; exit 1; }
java -Xcheck:jni "-Djava.library.path=$made" -cp "$made/test.jar" org.flashflood.TestKt "$made/state" 2>&1 | tee "$made/said"
# JNI tells what it does not like, and goes on
! grep -q '^WARNING\|FATAL ERROR' "$made/said"
