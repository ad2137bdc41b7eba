#!/bin/bash
# tests/ci/aarch64.sh: does every file of the native engine compile for aarch64? Syntax and types; nothing is linked or run.
# Needs g++-aarch64-linux-gnu (Debian). The bindings are looked at where PYTHON (python3) has pybind11.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
compiler=aarch64-linux-gnu-g++
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
flags="-std=c++20 -fvisibility=hidden -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Icsrc"
# Read once: it is most of what each file reads.
printf '#include <%s>\n' algorithm array atomic cstring deque functional map memory mutex optional set span string thread \
    vector >"$folder/std.h"
# shellcheck disable=SC2086
"$compiler" $flags -x c++-header "$folder/std.h" -o "$folder/std.h.gch" || exit 1
# Python's own headers are the same for every architecture, and warnings in others' headers are not ours.
if includes=$("${PYTHON:-python3}" -m pybind11 --includes 2>/dev/null); then
    find=(find csrc -name '*.cpp')
    includes=${includes//-I/-isystem }
else
    find=(find csrc -name '*.cpp' -not -path 'csrc/bindings/*')
    includes=
    echo "without the bindings: ${PYTHON:-python3} has no pybind11"
fi
"${find[@]}" -print0 | sort -z | xargs -0 -n 1 -P "$(nproc)" "$compiler" $flags -include "$folder/std.h" $includes \
    -fsyntax-only && echo "every file compiles for aarch64"
