"""Samples, their median and spread, and the table of them: at most 80 columns."""

from __future__ import annotations

import dataclasses
import operator
import statistics
from collections.abc import Callable, Sequence

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Aim:
    """What is expected of a median, stated before anything is measured, as in ``Aim("<", 20)``."""

    comparison: str
    limit: float

    def met(self, median: float) -> bool:
        """Whether the median is as expected."""
        return _COMPARE[self.comparison](median, self.limit)

    def __str__(self) -> str:
        return f"{self.comparison} {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured quantity: what it is, in which unit, what was expected, what was seen."""

    what: str
    unit: str
    aim: Aim | None
    samples: Sequence[float]

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)

    def __str__(self) -> str:
        aim = "" if self.aim is None else str(self.aim)
        verdict = "" if self.aim is None else "met" if self.aim.met(self.median) else "MISSED"
        return (
            f"{self.what:<38} {self.unit:>2} {aim:>7} {_short(self.median):>6}"
            f" {self._spread():>11} {len(self.samples):>2}  {verdict}"
        ).rstrip()

    def _spread(self) -> str:
        """The quartiles: half of the samples lie between."""
        if len(self.samples) < 2:
            return ""
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return f"{_short(low)}..{_short(high)}"


HEADER = f"{'':<38} {'':>2} {'aim':>7} {'median':>6} {'quartiles':>11} {'n':>2}"


def pairwise_ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The quotient of each pair that was measured together."""
    return [a / b for a, b in zip(above, below, strict=True)]


def _short(value: float) -> str:
    """Three digits where there are fewer than three before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
