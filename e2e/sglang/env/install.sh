#!/bin/bash
# install.sh VENV: real, unmodified SGLang 0.5.23 for `--device cpu` into the virtual environment VENV (made when
# missing), without CUDA wheels.
#
# About 3.1 GB; 15-60 s with uv and a warm cache, two minutes with pip. Python 3.11; needs g++, libssl-dev and ninja
# (the last comes with it). An environment that this very folder made before is kept as it is.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:?usage: install.sh VENV}
python=${PYTHON:-python3.11}

stamp=$(cd "$here" && find . -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 cat | sha256sum | cut -d' ' -f1)
if [ "$(cat "$venv/.tent-stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "SGLang environment $venv is up to date"
    exit 0
fi

rm -rf "$venv"
"$python" -m venv "$venv"
# shellcheck disable=SC1091
. "$venv/bin/activate"
# uv installs several times faster and keeps a cache; it is a convenience, never a condition.
if pip install --quiet uv; then
    export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
    install() { uv pip install --compile-bytecode "$@"; }
else
    install() { pip install --compile "$@"; }
fi

install torch==2.13.0+cpu setuptools wheel ||
    install --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu setuptools wheel
# These ask for CUDA builds of what is installed here for the CPU, so their dependencies are named one by one below.
install -c "$here/constraints.txt" --no-deps sglang triton torchvision xgrammar outlines outlines_core compressed-tensors
install -c "$here/constraints.txt" aiohttp anthropic apache-tvm-ffi blobfile distro einops fastapi gguf interegular \
    llguidance msgspec ninja numpy openai openai-harmony orjson packaging partial_json_parser pillow prometheus-client \
    psutil pybase64 pydantic python-dateutil python-multipart pyzmq regex requests scipy sentencepiece setproctitle \
    tiktoken tokenizers tqdm uvicorn uvloop watchfiles xxhash zstandard IPython safetensors transformers dill \
    cloudpickle airportsdata lark nest-asyncio diskcache referencing jsonschema loguru soundfile pycountry datasets \
    pandas pyarrow pytest pytest-timeout tabulate

# The torchvision wheel is linked against CUDA: declare the two operators that its fake kernels are registered for.
python - <<'EOP'
import importlib.util
import pathlib

root = importlib.util.find_spec("torchvision").submodule_search_locations[0]
path = pathlib.Path(root, "_meta_registrations.py")
text = path.read_text()
anchor = "import torchvision.extension  # noqa: F401\n"
assert anchor in text, f"{path} has changed: adapt e2e/sglang/env/install.sh"
patch = """
_cpu_lib = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _cpu_lib.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
if "_cpu_lib" not in text:
    path.write_text(text.replace(anchor, anchor + patch, 1))
EOP

# Built from a copy, because setuptools leaves build folders beside the sources.
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp -r "$here/cpu_support" "$tmp/"
chmod -R u+w "$tmp"
install --no-deps --no-build-isolation "$tmp/cpu_support"

# SGLang compiles its page hash inside the first request (6-16 s): do it here, into this environment and not into the
# user's cache, where environments would take it from each other. The support package names the folder when serving.
TORCH_EXTENSIONS_DIR="$venv/torch_extensions" MAX_JOBS=2 \
    python -c 'from sglang.srt.mem_cache.cpp_utils.native_hash import get_native_hash as h; h([1], None)'

echo "$stamp" > "$venv/.tent-stamp"
echo "SGLang environment ready: $venv"
