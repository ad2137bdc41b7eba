"""Models for the end-to-end tests: random weights, a real tokenizer, made offline and kept from run to run.

The generator is the demo's (``tent_core/cli/demo_model.py``, sizes in its `SIZES`). A model lies in
``~/.cache/tent-models`` (or under ``XDG_CACHE_HOME``) in a folder named after its size and the generator's own hash,
so a changed generator makes new ones.
"""

from __future__ import annotations

from pathlib import Path

from tent_core.cli.demo_common import generated_model


def model_path(python: str, size: str = "tiny") -> Path:
    """The folder of a model of `size`, made with the interpreter `python` (one that has torch and transformers)."""
    return generated_model(python, size)
