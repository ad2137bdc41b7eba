"""Adds up the results of all tiers (JUnit files of pytest and ctest) and prints the closing line of a run.

Usage: summary.py RESULTS-FOLDER [FAILED-STEP...]. Exits 1 when a test or a step failed, or when no test ran.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count(path: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of one JUnit file."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"} or case.get("status") == "fail":
            failed += 1
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main() -> int:
    folder, steps = Path(sys.argv[1]), sys.argv[2:]
    total = [0, 0, 0]
    print("\n=== results ===")
    for path in sorted(folder.glob("*.xml")):
        try:
            counts = count(path)
        except ElementTree.ParseError as error:
            print(f"{path.stem:<16} unreadable: {error}")
            counts = (0, 1, 0)
        print(f"{path.stem:<16} {counts[0]:5} passed {counts[1]:4} failed {counts[2]:4} skipped")
        total = [a + b for a, b in zip(total, counts, strict=True)]
    # A step that failed without a failing test of its own (lint, a build, a crash) counts as one.
    total[1] = max(total[1], len(steps))
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
