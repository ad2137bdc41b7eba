"""Small line charts as SVG: what the pages of measurements show. Both axes are logarithmic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Panel", "svg"]

_COLOURS = ("#1b6ca8", "#d9822b", "#8a8a8a", "#3a7d44", "#a23b72")
_WIDTH, _HEIGHT, _PAD = 360, 230, 52
_Name = Callable[[float], str]


@dataclass(frozen=True)
class Panel:
    title: str
    across: str  # what x is
    lines: dict[str, Sequence[tuple[float, float]]]  # name -> (x, y), all above 0
    name_x: _Name = "{:g}".format
    name_y: _Name = "{:g}".format


def svg(panels: Sequence[Panel], columns: int = 2) -> str:
    high = math.ceil(len(panels) / columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{min(columns, len(panels)) * _WIDTH}" '
        f'height="{high * _HEIGHT}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for n, panel in enumerate(panels):
        parts += _panel(panel, n % columns * _WIDTH, n // columns * _HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: int, top: int) -> list[str]:
    xs = sorted({x for points in panel.lines.values() for x, _ in points})
    ys = [y for points in panel.lines.values() for _, y in points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high = max(high, low + 1)
    wide, tall = _WIDTH - 1.5 * _PAD, _HEIGHT - 1.7 * _PAD
    span = math.log(xs[-1] / xs[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        up = (math.log10(y) - low) / (high - low)
        return left + _PAD + math.log(x / xs[0]) / span * wide, top + 30 + (1 - up) * tall

    parts = [f'<text x="{left + _PAD}" y="{top + 14}" font-weight="bold">{panel.title}</text>']
    for power in range(low, high + 1):
        x, y = place(xs[0], 10.0**power)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + wide:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{panel.name_y(10.0**power)}</text>'
        )
    for value in xs:
        x, _ = place(value, 10.0**low)
        bottom = top + tall + 45
        parts.append(f'<text x="{x:.1f}" y="{bottom:.1f}" text-anchor="middle">{panel.name_x(value)}</text>')
    parts.append(
        f'<text x="{left + _PAD + wide / 2:.1f}" y="{top + tall + 60:.1f}" text-anchor="middle">{panel.across}</text>'
    )
    for i, (name, points) in enumerate(panel.lines.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(panel.lines) > 1:
            parts.append(f'<text x="{left + _PAD + 6 + i * 84}" y="{top + 27}" fill="{colour}">{name}</text>')
    return parts
