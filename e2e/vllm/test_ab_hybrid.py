"""Sliding windows beside full attention: vLLM's hybrid KV-cache manager stays on, and the answers are vLLM's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tent_core.cli.demo_common import LOGPROB_TOLERANCE, generated_model

SCRIPT = Path(__file__).with_name("hybrid.py")
BLOCK = 128
PROMPT = [5 + i * (i + 13) % 4000 for i in range(BLOCK * 9 + 40)]


def run(model: Path, task: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(model)], input=json.dumps(task), capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_a_model_of_windows_and_full_attention(tmp_path: Path) -> None:
    model = Path(generated_model(sys.executable, "hybrid"))
    config = {
        "directory": {"embedded_dir": str(tmp_path / "directory"), "timeout_ms": 5000},
        "store": {"capacity": "64MiB", "extent": "16MiB"},
        "vllm": {"load_when_faster": False, "lookup_wait_ms": 30000},
    }
    plain = run(model, {"config": None, "prompts": {"a": PROMPT}})
    tent = run(model, {"config": config, "prompts": {"a": PROMPT}, "pages": 9 * 3})
    print(tent)
    for name in ("a", "a again"):
        assert tent[name] == pytest.approx(plain["a"], abs=LOGPROB_TOLERANCE), name
    assert tent["a hits"] == 9 * BLOCK
    # Of a window's blocks only the last ones are loaded.
    assert 9 < tent["loaded"] < 9 * 3
