"""The comparison of policies as a page: a table, and a plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tent_core.sim.paper import Row
from tent_core.sim.values import POLICIES

__all__ = ["page", "svg"]

_NAMES = {"water": "TENT", "paper": "paper's policy", "robin": "round robin"}
_COLOURS = {"water": "#1b6ca8", "paper": "#d9822b", "robin": "#8a8a8a"}
_PERCENTILES = ("P50", "P90", "P99", "P99.9")
_WIDTH, _HEIGHT, _PAD = 300, 200, 44


def page(rows: Sequence[Row], command: str, plot: str) -> str:
    head = ("transfers", "policy", "GB/s", *(f"{p} µs" for p in _PERCENTILES), "failed")
    lines = [
        "# The paper's setting",
        "",
        f"Made by `{command}`; the same command gives the same figures. What is simulated: docs/simulator.md.",
        "",
        f"![Time of a transfer, by percentile]({plot})",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        times = [f"{v:,.0f}" for v in row.microseconds]
        load = f"{row.size} × {row.concurrent}"
        cells = (load, _NAMES[row.policy], f"{row.gigabytes_per_second:.1f}", *times, str(row.failed))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def svg(rows: Sequence[Row]) -> str:
    """A panel for each size and number of transfers at a time: percentiles across, time upwards (logarithmic)."""
    panels = list(dict.fromkeys((row.size, row.concurrent) for row in rows))
    columns = len({concurrent for _, concurrent in panels})
    high = math.ceil(len(panels) / columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * _WIDTH}" height="{high * _HEIGHT + 30}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, policy in enumerate(POLICIES):
        x = 20 + i * 130
        parts.append(f'<rect x="{x}" y="10" width="14" height="4" fill="{_COLOURS[policy]}"/>')
        parts.append(f'<text x="{x + 20}" y="16">{_NAMES[policy]}</text>')
    for n, panel in enumerate(panels):
        chosen = [row for row in rows if (row.size, row.concurrent) == panel]
        parts += _panel(chosen, n % columns * _WIDTH, 30 + n // columns * _HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(rows: Sequence[Row], left: int, top: int) -> list[str]:
    values = [v for row in rows for v in row.microseconds]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    wide, tall = _WIDTH - 1.5 * _PAD, _HEIGHT - 1.5 * _PAD

    def place(i: int, value: float) -> tuple[float, float]:
        up = (math.log10(value) - low) / (high - low)
        return left + _PAD + i * wide / (len(_PERCENTILES) - 1), top + 18 + (1 - up) * tall

    parts = [
        f'<text x="{left + _PAD}" y="{top + 10}" font-weight="bold">{rows[0].size} × {rows[0].concurrent}</text>'
    ]
    for power in range(low, high + 1):
        x, y = place(0, 10**power)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + wide:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        name = f"{10**power / 1000:g} ms" if power >= 3 else f"{10**power:g} µs"
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>')
    for i, percentile in enumerate(_PERCENTILES):
        x, _ = place(i, values[0])
        parts.append(f'<text x="{x:.1f}" y="{top + tall + 34:.1f}" text-anchor="middle">{percentile}</text>')
    for row in rows:
        points = " ".join("{:.1f},{:.1f}".format(*place(i, v)) for i, v in enumerate(row.microseconds))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_COLOURS[row.policy]}" stroke-width="2"/>'
        )
    return parts
