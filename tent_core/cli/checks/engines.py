"""The serving engines: installed, and does their plug-in load? Asked in processes of their own, side by side.

Importing a serving engine takes seconds and may crash or print; none of that may reach the doctor.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

from tent_core.cli.checks.finding import BROKEN, INFO, OK, Finding
from tent_core.config import Config

__all__ = ["check"]

AREA = "engines"
_PATIENCE_S = 180.0
_MARK = "TENT-DOCTOR "

_VLLM = """
import vllm
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
if "TentConnector" not in KVConnectorFactory._registry:
    raise SystemExit("vLLM loaded its plug-ins, but TentConnector is not among its connectors")
KVConnectorFactory.get_connector_class_by_name("TentConnector")
say(vllm.__version__)
"""

_SGLANG = """
import argparse
import sglang
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
action = parser._option_string_actions["--hicache-storage-backend"]
if action.choices is not None and "tent" not in action.choices:
    raise SystemExit("SGLang loaded its plug-ins, but --hicache-storage-backend does not know 'tent'")
import tent_sglang.backend
say(sglang.__version__)
"""

_SAY = f"import json\ndef say(version): print({_MARK!r} + json.dumps(version), flush=True)\n"

_ENGINES = {
    "vllm": (
        "vLLM",
        _VLLM,
        """--kv-transfer-config '{"kv_connector":"TentConnector","kv_role":"kv_both"}'""",
    ),
    "sglang": ("SGLang", _SGLANG, "--enable-hierarchical-cache --hicache-storage-backend tent"),
}


def check(config: Config) -> list[Finding]:
    asked = {
        name: subprocess.Popen(
            [sys.executable, "-c", _SAY + code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for name, (_, code, _) in _ENGINES.items()
        if importlib.util.find_spec(name)
    }
    return [_finding(name, asked.get(name)) for name in _ENGINES]


def _finding(name: str, process: subprocess.Popen[str] | None) -> Finding:
    title, _, flags = _ENGINES[name]
    if process is None:
        return Finding(AREA, title, INFO, "not installed in this environment")
    try:
        output, _ = process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Finding(AREA, title, BROKEN, f"importing it took more than {_PATIENCE_S:.0f} s")
    for line in output.splitlines():
        if line.startswith(_MARK) and process.returncode == 0:
            return Finding(AREA, title, OK, f"{json.loads(line[len(_MARK) :])}, plug-in loads; use {flags}")
    last = [line for line in output.splitlines() if line.strip()][-1:] or [
        f"exit status {process.returncode}"
    ]
    fix = (
        f"install tent-kv into the environment of {title}: {sys.executable} -m pip install --no-deps tent-kv"
    )
    return Finding(AREA, title, BROKEN, f"the plug-in does not load: {last[0][:300]}", fix)
