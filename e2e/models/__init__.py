"""Models for the end-to-end tests: random weights, a real tokenizer, made offline and kept from run to run.

The generator is the demo's (``tent_core/cli/demo_model.py``). A model lies in ``~/.cache/tent-models`` (or under
``XDG_CACHE_HOME``) in a folder named after its size and the generator's own hash, so a changed generator makes new
ones.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

GENERATOR = Path(__file__).resolve().parents[2] / "tent_core" / "cli" / "demo_model.py"


def model_path(python: str, size: str = "tiny") -> Path:
    """The folder of a model of `size`, made with the interpreter `python` (one that has torch and transformers)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tent-models"
    version = hashlib.sha256(GENERATOR.read_bytes()).hexdigest()[:12]
    directory = cache / f"{size}-{version}"
    if not (directory / "config.json").exists():
        environment = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS="1")
        subprocess.run(
            [python, str(GENERATOR), str(directory), "--size", size], check=True, env=environment, timeout=300
        )
    return directory
