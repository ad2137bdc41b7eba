"""A page that was promised and does not come: vLLM computes it, and nothing made of the rubbish is ever stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tent_core.cli.demo_common import LOGPROB_TOLERANCE
from tent_core.cli.vllm_server import BLOCK_TOKENS

SCRIPT = Path(__file__).with_name("load_failure.py")
PAGES = 11
PROMPT = [5 + i * (i + 7) % 4000 for i in range(BLOCK_TOKENS * PAGES + 40)]


def test_lost_pages_are_recomputed(model: Path, tmp_path: Path) -> None:
    config = {
        "directory": {"embedded_dir": str(tmp_path / "directory"), "timeout_ms": 5000},
        "store": {"capacity": "64MiB", "extent": "16MiB"},
        "vllm": {"load_when_faster": False, "lookup_wait_ms": 30000, "failed_page_ms": 600000},
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(model)],
        input=json.dumps({"config": config, "prompt": PROMPT, "pages": PAGES}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    for name, answer in answers.items():
        assert answer["reason"] == "length", name
        assert answer["logprobs"] == pytest.approx(answers["computed"]["logprobs"], abs=LOGPROB_TOLERANCE), (
            name
        )
    pages = [answer["hits"] // BLOCK_TOKENS for answer in answers.values()]
    offered = [after - before for before, after in zip([0, *pages], pages, strict=False)]
    # Eleven pages; with the fourth lost only three are offered; with the first lost none is.
    assert offered == [0, 11, 11, 3, 0]
