#!/bin/bash
# tests/run.sh [TIER...]: set up what the tests need and run them; everything without arguments.
#
# Tiers, each of which runs alone: lint native unit contract metadata store integration sanitize protections
# testbed soak e2e-vllm e2e-sglang bench. `all` is every one of them. Beside them: rdma, real verbs in a guest kernel,
# which is built once, in some minutes (docs/rdma.md).
#
#   bash tests/run.sh                  everything
#   bash tests/run.sh unit contract    about a minute, once built
#   PYTEST_ARGS='-k fence -x' bash tests/run.sh contract
#   TENT_TEST_EXITS=1000 PYTEST_ARGS='-k interpreter_exits' bash tests/run.sh integration     the long form: 50 in CI
#
# Set-up goes into build/ci of this checkout and, for the serving engines' environments, into
# ${XDG_CACHE_HOME:-~/.cache}/tent. As root, missing system packages are installed; otherwise they are named. The
# minutes of each tier are printed, beside the 75 that all are meant to take on two cores; more than TENT_CI_MINUTES (88)
# is a failure.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$root/build/ci"
python=${PYTHON:-python3}
limit_minutes=${TENT_CI_MINUTES:-88}
all_tiers=(lint native unit contract metadata store integration sanitize protections testbed soak e2e-vllm e2e-sglang bench)
by_name_only=(rdma)

# shellcheck source=tests/ci/setup.sh
. "$root/tests/ci/setup.sh"
# shellcheck source=tests/ci/tiers.sh
. "$root/tests/ci/tiers.sh"

tiers=("$@")
if [ ${#tiers[@]} -eq 0 ] || [ "${tiers[0]}" = all ]; then
    tiers=("${all_tiers[@]}")
fi
case "${tiers[0]}" in -h | --help) sed -n '/^# tests/,/^set/s/^#[ ]\{0,1\}//p' "$0" && exit 0 ;; esac
for tier in "${tiers[@]}"; do
    case " ${all_tiers[*]} ${by_name_only[*]} " in
        *" $tier "*) ;;
        *) echo "unknown tier '$tier'; there are: ${all_tiers[*]} ${by_name_only[*]} all" >&2 && exit 2 ;;
    esac
done

mkdir -p "$build/results" "$build/cwd"
rm -f "$build"/results/*
started=$SECONDS
failed=()
times=()

# run_step NAME COMMAND...: one timed step; its failure is recorded and the run goes on.
run_step() {
    local name=$1 before=$SECONDS result=ok
    shift
    printf '\n=== %s ===\n' "$name"
    if ! ("$@"); then
        result=FAILED
        failed+=("$name")
    fi
    times+=("$(awk -v n="$name" -v s=$((SECONDS - before)) -v r="$result" \
        'BEGIN { printf "%-14s %6.1f min  %s", n, s / 60, r }')")
    [ "$result" = ok ]
}

if run_step set-up set_up "${tiers[@]}"; then
    for tier in "${tiers[@]}"; do
        run_step "$tier" "tier_${tier//-/_}"
    done
fi

printf '\n=== minutes ===\n'
printf '%s\n' "${times[@]}"
minutes=$(((SECONDS - started + 59) / 60))
echo "in all         $minutes min (meant to take 75 on two cores, limit $limit_minutes)"
if [ "$minutes" -gt "$limit_minutes" ]; then
    echo "this run took longer than its limit of $limit_minutes minutes"
    failed+=("time limit")
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
fi
for note in "$build"/results/*.left-out; do
    [ -e "$note" ] && echo "left out: $(cat "$note")"
done
python3 "$root/tests/ci/summary.py" "$build/results" "${failed[@]}"
