"""All benchmarks, one after the other, reached beside aimed: what CI prints. Never fails for being slow.

Usage: ``python -m tent_core.benchmarks.report [--quick] [--out FILE]``. Exits 1 when a benchmark does not run at all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from pathlib import Path

KINDS = ("memory", "tcp", "store", "directory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ratios: dict[str, float] = {}
    broken = []
    for kind in KINDS:
        print(f"\n--- {kind} ---", flush=True)
        try:
            report = importlib.import_module(f".bench_{kind}", __package__).measure(options.quick)
        except Exception:
            traceback.print_exc()
            broken.append(kind)
            continue
        report.show(False)
        ratios.update({f"{kind}.{name}": value for name, value in report.ratios.items()})
    if options.out:
        options.out.write_text(json.dumps({"ratios": ratios}, indent=1), encoding="utf-8")
    if broken:
        print(f"did not run: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
