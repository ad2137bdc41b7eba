"""Several benchmarks, one after the other, reached beside aimed: what ``tent bench`` and CI print.

Never fails for being slow. ``python -m tent_core.benchmarks.report [--quick] [--out FILE]`` is what CI runs: it exits 1
when a benchmark does not run at all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tent_core.cli.progress import Progress, Steps
from tent_core.errors import InvalidArgument, TentError

from .common import Report, Say, quiet

__all__ = ["KINDS", "interpreter", "run"]

KINDS = ("memory", "tcp", "store", "directory", "sched", "hitratio")


def interpreter(given: str | None) -> str | None:
    """The Python that ``--rivals`` means: a program, or the folder of a virtual environment."""
    if given is None:
        return None
    path = os.path.join(given, "bin", "python") if os.path.isdir(given) else given
    found = shutil.which(path)
    if found is None:
        raise InvalidArgument(
            f"--rivals {given}: there is no such Python; name the one that has them installed"
        )
    return found


@contextmanager
def _progress(kind: str, steps: Steps | None) -> Iterator[Say]:
    """What is being measured, for whoever waits for it at a terminal."""
    if not sys.stderr.isatty():
        yield quiet
        return
    with steps.step(kind) if steps else Progress(kind) as progress:
        yield progress.update


def _as_json(reports: Sequence[Report]) -> str:
    """One report as it is; of several the ratios, each under ``kind.name``."""
    if len(reports) == 1:
        only = reports[0]
        return json.dumps(
            {"kind": only.kind, "ratios": only.ratios, "figures": only.figures, "notes": only.notes}
        )
    ratios = {f"{report.kind}.{name}": value for report in reports for name, value in report.ratios.items()}
    notes = {report.kind: report.notes for report in reports}
    return json.dumps({"ratios": ratios, "figures": {r.kind: r.figures for r in reports}, "notes": notes})


def run(
    kinds: Sequence[str] = KINDS,
    *,
    quick: bool = False,
    as_json: bool = False,
    rivals: str | None = None,
    out: Path | None = None,
    page: Path | None = None,
) -> int:
    """Measure and print; returns the exit status. One kind that does not run leaves the others their turn.

    ``page``: the folder in which a kind that has a page of results writes it."""
    python = interpreter(rivals)
    reports: list[Report] = []
    broken = []
    steps = Steps(len(kinds)) if len(kinds) > 1 else None
    for kind in kinds:
        try:
            program = importlib.import_module(f".bench_{kind}", __package__)
            with _progress(kind, steps) as say:
                report = program.measure(quick, python, say)
        except Exception as error:
            if len(kinds) == 1:
                raise
            if isinstance(error, TentError):
                print(f"{kind}: {error}", file=sys.stderr)
            else:
                traceback.print_exc()
            broken.append(kind)
            continue
        reports.append(report)
        if page is not None and hasattr(program, "write_page"):
            program.write_page(report, f"tent bench {kind} --page {page}", page)
        if not as_json:
            if len(kinds) > 1:
                print(f"\n--- {kind} ---")
            report.show()
            sys.stdout.flush()
    if as_json:
        print(_as_json(reports))
    if out:
        out.write_text(_as_json(reports), encoding="utf-8")
    if broken:
        print(f"did not run: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return run(quick=options.quick, out=options.out)


if __name__ == "__main__":
    sys.exit(main())
