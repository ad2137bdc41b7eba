#!/bin/bash
# e2e/demo.sh [--engine vllm|sglang] [--fast] [...]: set up everything and run `tent demo` with these arguments.
#
# Makes its own environments: TENT is built from this checkout into build/ci, the serving engine goes into
# ${XDG_CACHE_HOME:-~/.cache}/tent/venvs (2.5 GB for vLLM, 3.1 GB for SGLang; once). --fast needs no serving engine.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$root/build/ci"
python=${PYTHON:-python3}
# shellcheck source=../tests/ci/setup.sh
. "$root/tests/ci/setup.sh"

engine=vllm
fast=no
previous=
for argument in "$@"; do
    case "$previous=$argument" in
        --engine=*) engine=$argument ;;
        *=--engine=*) engine=${argument#--engine=} ;;
        *=--fast) fast=yes ;;
        *=-h | *=--help) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 0 ;;
    esac
    previous=$argument
done
case $engine in
    vllm | sglang) ;;
    *) echo "unknown engine '$engine': vllm or sglang" >&2 && exit 2 ;;
esac

mkdir -p "$build/results" "$build/cwd"
wanted=(fast)
[ $fast = yes ] || wanted=("demo-$engine")
install_packages "${wanted[@]}" || exit 1
echo "building TENT (once for this checkout; about a minute on two cores) ..."
make_wheel || exit 1
if [ $fast = yes ]; then
    make_test_env && install_wheel "$build/venv" || exit 1
    venv="$build/venv"
else
    announce_engine_env "$engine"
    engine_env "$engine" || exit 1
    venv=$engine_venv
fi
cd "$build/cwd" || exit 1
# SGLang compiles with the ninja of its environment, so the environment is put first.
export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
exec "$venv/bin/tent" demo "$@"
