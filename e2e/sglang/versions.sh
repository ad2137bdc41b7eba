#!/bin/bash
# versions.sh VENV [VERSION...]: the conformance run (conformance.py) against other releases of SGLang.
#
# VENV: an environment made by env/install.sh, with TENT installed. Each release is laid over it with the transformers
# that it pins and nothing else of its dependencies, in a folder that goes away again: 100-200 MB, not a second
# environment. Prints a line a release; the exit status is that of the worst.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:?usage: versions.sh VENV [VERSION...]}
shift
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(0.5.6.post2 0.5.10 0.5.11 0.5.14 0.5.16 0.5.18 0.5.19 0.5.20 0.5.21 0.5.22 0.5.23)
# The requirement as the release states it, such as "transformers==4.57.1".
pinned_transformers() {
    sed -n 's/^Requires-Dist: \(transformers *[=<>~!][^;]*\).*/\1/p' "$1"/sglang-*.dist-info/METADATA | tr -d ' ()' | head -1 |
        grep . || echo transformers
}

result=0
for version in "${versions[@]}"; do
    over=$(mktemp -d)
    if "$venv/bin/python" -m pip install --quiet --no-deps --target "$over" "sglang==$version" 2>"$over.log" &&
        "$venv/bin/python" -m pip install --quiet --target "$over" "$(pinned_transformers "$over")" 2>>"$over.log"; then
        if ! line=$(PYTHONPATH="$over${PYTHONPATH:+:$PYTHONPATH}" "$venv/bin/python" "$here/conformance.py" 2>>"$over.log"); then
            result=1
        fi
        printf '%-12s %s\n' "$version" "$(tail -1 <<<"${line:-}")"
        [ -n "${line:-}" ] || tail -3 "$over.log"
    else
        result=1
        printf '%-12s cannot be installed: %s\n' "$version" "$(tail -1 "$over.log")"
    fi
    rm -rf "$over" "$over.log"
done
exit $result
