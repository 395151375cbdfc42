"""Charts as inline SVG. Each has a title and a description, and no meaning in its colours alone.

Series differ by dashes and markers too, and are named in the chart; classes take their colours from
the page, for light and dark.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

from pytest_deepspeed.reporting.overview import finite, number, quantile
from pytest_deepspeed.reporting.texts import visible

_WIDTH = 440
_LEFT, _RIGHT = 62, 12
_TOP, _BOTTOM = 30, 40
_HEIGHT = 250

#: More points than these are drawn without a marker each.
_MARKED = 40


@dataclasses.dataclass(frozen=True)
class Series:
    """Values with a name; ``style`` 1, 2 or 3 is its colour, dashes and marker."""

    name: str
    style: int
    values: Sequence[float | None]


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar: its label, the value, what it should be, and how that is written."""

    label: str
    value: float
    wanted: float | None
    text: str
    style: int = 1


def e(text: object) -> str:
    """A text as it may stand in HTML and in quoted attributes."""
    return escape(visible(text), quote=True)


def lines(key: str, title: str, description: str, series: Sequence[Series]) -> str:
    """Curves over the steps of a training, one over the other, on a scale that shows them all.

    The scale is logarithmic where values span more than a factor of 100.
    """
    values = [value for one in series for value in finite(one.values)]
    if not values:
        return ""
    steps = max(len(one.values) for one in series)
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > 100
    scale = math.log10 if logarithmic else float
    bottom, top = _padded(scale(low), scale(high))

    def x(step: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step / max(1, steps - 1))

    def y(value: float) -> float:
        share = (scale(value) - bottom) / (top - bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_frame(y, bottom, top, logarithmic)]
    below = _HEIGHT - _BOTTOM + 17
    shown = sorted({0, (steps - 1) // 2, steps - 1})
    parts += [_text(x(step), below, str(step), "middle") for step in shown]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "step", "middle"))
    parts += [_curve(one, x, y) for one in series]
    parts += _legend(series)
    note = " Logarithmic scale." if logarithmic else ""
    return _svg(key, title, description + note, _HEIGHT, parts)


def bars(key: str, title: str, description: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars, each with its value in words; a line across shows what it should be."""
    if not rows:
        return ""
    most = max(max(row.value, row.wanted or 0) for row in rows) or 1
    left, right = 118, 8
    parts = []
    for place, row in enumerate(rows):
        top = 8 + 40 * place
        width = (_WIDTH - left - right) * row.value / most
        parts.append(_text(left - 6, top + 14, row.label, "end"))
        parts.append(
            f'<rect class="bar s{row.style}" x="{left}" y="{top + 2}" width="{max(width, 1):.1f}"'
            ' height="15" rx="2"/>'
        )
        if row.wanted is not None:
            at = left + (_WIDTH - left - right) * row.wanted / most
            # The halo sets it off from the bar that it stands on.
            line = f'd="M{at:.1f} {top - 2}v23"/>'
            parts.append(f'<path class="halo" {line}<path class="wanted" {line}')
        parts.append(_text(left, top + 31, row.text, "start", "quiet"))
    return _svg(key, title, description, 12 + 40 * len(rows), parts)


def strips(key: str, title: str, description: str, rows: Sequence[Series], unit: str) -> str:
    """Each value as a mark, and a box from the lower to the upper quartile with the median."""
    drawn = [(row, finite(row.values)) for row in rows if finite(row.values)]
    if not drawn:
        return ""
    low = min(min(values) for _, values in drawn)
    high = max(max(values) for _, values in drawn)
    low, high = _padded(low, high)
    left = 118

    def x(value: float) -> float:
        return left + (_WIDTH - left - _RIGHT) * (value - low) / (high - low)

    bottom = 10 + 34 * len(drawn)
    parts = [f'<path class="axis" d="M{left} {bottom}H{_WIDTH - _RIGHT}"/>']
    for at, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        parts.append(_text(x(at), bottom + 17, number(at), anchor))
    parts.append(_text((left + _WIDTH) / 2, bottom + 34, unit, "middle"))
    for place, (row, values) in enumerate(drawn):
        middle = 22 + 34 * place
        quarter, median, three = (x(quantile(values, q)) for q in (0.25, 0.5, 0.75))
        parts.append(_text(left - 6, middle + 4, row.name, "end"))
        parts.append(
            f'<rect class="box s{row.style}" x="{quarter:.1f}" y="{middle - 9}"'
            f' width="{max(three - quarter, 1):.1f}" height="18"/>'
        )
        parts += [_marker(row.style, x(v), middle + 5 * (i % 3 - 1)) for i, v in enumerate(values)]
        parts.append(f'<path class="median" d="M{median:.1f} {middle - 12}v24"/>')
    return _svg(key, title, description, bottom + 40, parts)


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range with a margin; around one value too."""
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _frame(y: Callable[[float], float], bottom: float, top: float, logarithmic: bool) -> str:
    parts = []
    for share in (0.06, 0.35, 0.65, 0.94):
        raw = bottom + share * (top - bottom)
        value = 10**raw if logarithmic else raw
        parts.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 6, y(value) + 4, number(value), "end"))
    base = _HEIGHT - _BOTTOM
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{base}H{_WIDTH - _RIGHT}"/>')
    return "".join(parts)


def _curve(one: Series, x: Callable[[int], float], y: Callable[[float], float]) -> str:
    """A value that is not finite is a gap."""
    path, pen = [], "M"
    marks = []
    for step, value in enumerate(one.values):
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        path.append(f"{pen}{x(step):.1f} {y(value):.1f}")
        pen = "L"
        if len(one.values) <= _MARKED:
            marks.append(_marker(one.style, x(step), y(value)))
    return f'<path class="line s{one.style}" d="{"".join(path)}"/>{"".join(marks)}'


def _marker(style: int, x: float, y: float) -> str:
    shapes = {
        1: f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0Z",  # a disc
        2: f"M{x - 5:.1f} {y - 5:.1f}h10v10h-10Z",  # a square, open
        3: f"M{x:.1f} {y - 7:.1f}l7 12h-14Z",  # a triangle, open
    }
    return f'<path class="mark s{style}" d="{shapes[style]}"/>'


def _legend(series: Sequence[Series]) -> list[str]:
    parts = []
    at = float(_LEFT)
    for one in series:
        parts.append(f'<path class="line s{one.style}" d="M{at:.0f} 13h30"/>')
        parts.append(_marker(one.style, at + 15, 13))
        parts.append(_text(at + 36, 17, one.name, "start"))
        at += 52 + 7 * len(one.name)
    return parts


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{e(text)}</text>'


def _svg(key: str, title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{e(title)}</title><desc id="{key}-d">{e(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )
