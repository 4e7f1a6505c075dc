#!/usr/bin/env bash
# build.sh [--check]: makes bundle/ of the sources in src/, with npm's esbuild; --check says whether what is committed
# is what they give. Needs node 20 and the npm registry, and nothing of it is needed to build flashflood.
set -euo pipefail
cd "$(dirname "$0")"
into=bundle
[[ ${1:-} != --check ]] || into=$(mktemp -d)
if [[ ${1:-} == --check ]] && ! npm ping >/dev/null 2>&1; then
    echo "npm, or its registry, is not there" && exit 77
fi
npm ci --no-audit --no-fund --silent
node build.mjs "$into"
if [[ ${1:-} == --check ]]; then
    diff -rq "$into" bundle || { echo "error: targets/page/bundle is not what targets/page gives (hint: targets/page/build.sh)" >&2 && exit 1; }
    rm -r "$into"
fi
