# The tiers of tests/run.sh, one function each. Sourced; each runs in a subshell and answers by its exit status.

bin="$build/venv/bin"
package_folders=(tent_core metadata/tent_metadata connectors/tent_vllm connectors/tent_sglang)

# in_tests TIER PATH... [-- ARGUMENT...]: pytest over these folders or files, from a neutral folder, so that the installed package
# is tested and not the source tree. Results go to build/ci/results for the summary.
in_tests() {
    local tier=$1 folders=() extra=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        [ -e "$root/$1" ] && folders+=("$root/$1")
        shift
    done
    [ ${#folders[@]} -gt 0 ] || { echo "no tests for $tier" >&2 && return 1; }
    read -r -a extra <<<"${PYTEST_ARGS:-}"
    extra=("${@:2}" "${extra[@]}")
    cd "$build/cwd" || return 1
    "${TENT_TEST_PYTHON:-$bin/python}" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -q \
        -p no:cacheprovider --durations=5 --junitxml="$build/results/$tier.xml" "${folders[@]}" "${extra[@]}"
}

tier_lint() {
    local result=0 sources
    cd "$root" || return 1
    "$bin/ruff" check . || result=1
    "$bin/mypy" "${package_folders[@]}" benchmarks || result=1
    mapfile -t sources < <(git ls-files '*.cpp' '*.h' 2>/dev/null || find csrc tests/native benchmarks -name '*.cpp' -o -name '*.h')
    "$bin/clang-format" --dry-run -Werror "${sources[@]}" || result=1
    return $result
}

# build_native NAME CMAKE-OPTION...: a CMake build of csrc under build/ci/NAME.
build_native() {
    local folder="$build/$1"
    shift
    PATH="$bin:$PATH" "$bin/cmake" -S "$root/csrc" -B "$folder" -G Ninja -Wno-dev \
        -DPython_EXECUTABLE="$bin/python" -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" "$@" >"$folder.log" 2>&1 &&
        "$bin/cmake" --build "$folder" --parallel "$(nproc)" >>"$folder.log" 2>&1 || {
        tail -60 "$folder.log" >&2
        return 1
    }
}

# run_ctest NAME: the native tests of a build.
run_ctest() {
    (cd "$build/$1" && "$bin/ctest" --output-on-failure --timeout 300 --output-junit "$build/results/$1.xml")
}

# python_site NAME: the Python packages beside the native module of build NAME; prints the folder for PYTHONPATH.
python_site() {
    local site="$build/$1/site"
    rm -rf "$site"
    mkdir -p "$site"
    (cd "$root" && cp -r tent_core metadata/tent_metadata connectors/tent_vllm connectors/tent_sglang "$site/") &&
        cp -r "$root/benchmarks" "$site/tent_core/benchmarks" &&
        rm -f "$site"/tent_core/_native*.so && cp "$build/$1"/_native*.so "$site/tent_core/" && echo "$site"
}

# without_doctest TIER: true where native tests cannot be built; noted, and a failure in CI.
without_doctest() {
    [ -e /usr/include/doctest/doctest.h ] && return 1
    echo "$1: native tests need doctest (apt-get install doctest-dev)" | tee "$build/results/$1.left-out"
}

# not_in_ci: what a tier answers that was left out: fine for a user without root, a failure in CI.
not_in_ci() { [ "${CI:-}" != true ]; }

# Built as the wheel is, so that ccache has the layers' objects already where the wheel was made first.
tier_native() {
    if without_doctest native; then not_in_ci; return; fi
    build_native native -DTENT_BUILD_TESTS=ON -DTENT_BUILD_PYTHON=OFF -DCMAKE_BUILD_TYPE=Release && run_ctest native
}

# The connectors' own folders hold what needs no serving engine.
tier_unit() { in_tests unit tests/unit tests/vllm tests/sglang tests/sim; }
tier_contract() { in_tests contract tests/contract; }
tier_metadata() { in_tests metadata tests/metadata; }
tier_store() { in_tests store tests/store; }
tier_integration() { in_tests integration tests/integration tests/handoff tests/fault tests/fuzz; }

# Optimised a little and with line numbers only: with -O2 -g GCC takes three times as long under ASan.
sanitized=(-DTENT_BUILD_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1")

# build_asan: the test build, under ASan and UBSan and with its switches: for the tiers sanitize and protections.
build_asan() {
    build_native asan "${sanitized[@]}" -DTENT_SANITIZE=address -DTENT_TEST_SWITCHES=ON -DTENT_BUILD_PYTHON=ON
}

# asan_environment SITE: what an interpreter needs that is to load that build's module. An interpreter leaks by design.
asan_environment() {
    export LD_PRELOAD PYTHONPATH=$1 PYTHONMALLOC=malloc
    export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:allocator_may_return_null=1"
    export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
    LD_PRELOAD="$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libstdc++.so)"
}

# tsan_environment SITE: the same for the TSan build. Children that a test forks go on under it.
tsan_environment() {
    export LD_PRELOAD PYTHONPATH=$1
    export TSAN_OPTIONS="halt_on_error=1:die_after_fork=0:suppressions=$root/tests/ci/tsan.supp"
    LD_PRELOAD="$(g++ -print-file-name=libtsan.so):$(g++ -print-file-name=libstdc++.so)"
}

# The tests that inject faults into real engines, and those of peers that mean harm.
fault_suite=(tests/integration/test_{rails,fencing,late_arrivals,strangers}.py)

# The native tests, the contract suite and the fault suite under ASan with UBSan, and under TSan. TSan takes several times
# as long, so of the contract's ways to reach memory it sees one through shared memory and one over two network rails,
# which between them run every thread there is; TENT_TEST_TSAN=all is the long form, with all of them.
tier_sanitize() {
    local result=0 site ways=(-k "shm-memfd or tcp-two-rails")
    if without_doctest sanitize; then not_in_ci; return; fi
    [ "${TENT_TEST_TSAN:-}" = all ] && ways=()
    # The native tests own all that they allocate, so there leaks count.
    if build_asan; then
        ASAN_OPTIONS="detect_leaks=1:abort_on_error=1" UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1" \
            run_ctest asan || result=1
        site=$(python_site asan) && (asan_environment "$site" &&
            in_tests asan-contract tests/contract "${fault_suite[@]}" tests/store/test_corruption.py) ||
            result=1
    else
        result=1
    fi
    if build_native tsan "${sanitized[@]}" -DTENT_SANITIZE=thread -DTENT_BUILD_PYTHON=ON; then
        TSAN_OPTIONS="halt_on_error=1:suppressions=$root/tests/ci/tsan.supp" run_ctest tsan || result=1
        site=$(python_site tsan) &&
            (tsan_environment "$site" && in_tests tsan-contract tests/contract -- "${ways[@]}") &&
            (tsan_environment "$site" && in_tests tsan-faults "${fault_suite[@]}") || result=1
    else
        result=1
    fi
    return $result
}

tier_protections() {
    local site
    if without_doctest protections; then not_in_ci; return; fi
    build_asan && site=$(python_site asan) || return 1
    cd "$build/cwd" || return 1
    asan_environment "$site"
    "$bin/python" "$root/tests/ci/protections.py" --build "$build/asan" --tests "$root/tests" \
        --results "$build/results"
}

# in_engine NAME: the end-to-end tests of a serving engine, in its own environment.
in_engine() {
    local name=$1 engine_venv
    engine_env "$name" || return 1
    # One run at a time uses the environment: its wheel is that of this checkout.
    exec 8>"$engine_venv.use"
    flock 8
    install_wheel "$engine_venv" || return 1
    PATH="$engine_venv/bin:$PATH" VIRTUAL_ENV="$engine_venv" TENT_TEST_PYTHON="$engine_venv/bin/python" \
        in_tests "e2e-$name" "e2e/$name"
}

tier_e2e_vllm() { in_engine vllm; }
tier_e2e_sglang() { in_engine sglang; }
# The long form is an hour of simulated time.
tier_soak() { TENT_TEST_SIM_MINUTES=${TENT_TEST_SIM_MINUTES:-1} in_tests soak e2e/soak; }
tier_testbed() { in_tests testbed e2e/testbed; }

# Real verbs: the tests of tests/native/rdma in a guest kernel with two rails, which they also break. TENT_TEST_RDMA
# names rails of this machine instead, whose adapters are then used without a guest and not broken.
tier_rdma() {
    if without_doctest rdma; then not_in_ci; return; fi
    g++ -std=c++20 -fsyntax-only -I"$root/csrc" "$root/e2e/rdma/abi_check.cpp" || return 1
    build_native native -DTENT_BUILD_TESTS=ON -DTENT_BUILD_PYTHON=OFF -DCMAKE_BUILD_TYPE=Release || return 1
    cd "$build/cwd" || return 1
    if [ -n "${TENT_TEST_RDMA:-}" ]; then
        "$build/native/tests/test_rdma"
        return
    fi
    # shellcheck source=e2e/rdma/guest/env.sh
    . "$root/e2e/rdma/guest/env.sh"
    rdma_guest "$root" || return 1
    TENT_TEST_RDMA=10.77.0.1-10.77.0.2,10.77.1.1-10.77.1.2 \
        TENT_TEST_RDMA_BREAK="$root/e2e/rdma/guest/bin/rail_restore.sh" \
        RDMA_GUEST_ENV="TENT_TEST_RDMA TENT_TEST_RDMA_BREAK" \
        bash "$root/e2e/rdma/guest/run.sh" -t 600 -n 2 -- "$build/native/tests/test_rdma" --no-colors=true -d=true
}

tier_bench() {
    build_native bench -DTENT_BUILD_BENCH=ON -DTENT_BUILD_PYTHON=OFF -DCMAKE_BUILD_TYPE=Release || return 1
    cd "$build/cwd" || return 1
    TENT_BENCH_NATIVE="$build/bench/bench" "$bin/python" -m tent_core.benchmarks.report --quick --out "$build/results/bench.json"
}
