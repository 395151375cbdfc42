"""A report by config: what the tables and the charts of all renderers are made from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_deepspeed.reporting.model import SIGNS, Report, Test
from pytest_deepspeed.values.finding import ITEMS
from pytest_deepspeed.values.size import format_size

#: Outcomes as a person calls them.
WORDS = {"xfailed": "known fault", "xpassed": "passed unexpectedly"}


@dataclasses.dataclass
class Row:
    """One config on one number of ranks.

    Attributes:
        config: its file, or its case id.
        world_size: ranks.
        outcomes: of each check the worst outcome.
        training: the first that was told, of kind ``training``; empty where nothing trained.
        against: of kind ``against``, likewise.
    """

    config: str
    world_size: int
    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    against: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def worst(self) -> str:
        """The worst outcome of its checks."""
        return min(self.outcomes.values(), key=list(SIGNS).index, default="not run")

    @property
    def said(self) -> str:
        """``"7 passed, parity failed"``."""
        order = [*ITEMS, *sorted(set(self.outcomes) - set(ITEMS))]
        parts = [f"{n} passed"] if (n := list(self.outcomes.values()).count("passed")) else []
        for outcome in SIGNS:
            names = [check for check in order if self.outcomes.get(check) == outcome]
            if names and outcome != "passed":
                parts.append(f"{' '.join(names)} {WORDS.get(outcome, outcome)}")
        return ", ".join(parts)

    @property
    def loss(self) -> list[float | None]:
        """Of each step of the config as it is now."""
        return list(self.training.get("loss") or self.against.get("loss") or [])

    @property
    def memory(self) -> str:
        """What the rank with most holds of what the arithmetic knows, and what that says."""
        memory = self.training.get("memory", {})
        expected, held = memory.get("expected", {}), memory.get("held", {})
        known = [name for name in expected if held.get(name)]
        if not known:
            return ""
        ranks = zip(*(held[name] for name in known), strict=True)
        most = max(sum(sizes) for sizes in ranks)
        wanted = sum(expected[name] for name in known)
        if most == wanted:
            return f"{format_size(most)}, as expected"
        return f"{format_size(most)}, expected {format_size(wanted)}"

    @property
    def time(self) -> str:
        """Milliseconds of a step, the median."""
        times = finite(self.training.get("step_time", []))
        return f"{1000 * quantile(times, 0.5):.1f} ms" if times else ""


def rows(report: Report) -> list[Row]:
    """A row for each config that a test is about, the worst first, then by name."""
    found: dict[tuple[str, int], Row] = {}
    for test in report.tests:
        if key := _key(test):
            row = found.setdefault(key, Row(*key))
            _add(row, test)
    ranked = list(SIGNS)
    return sorted(found.values(), key=lambda r: (ranked.index(r.worst), r.config, r.world_size))


def _key(test: Test) -> tuple[str, int] | None:
    told = [*test.told("training"), *test.told("against")]
    config = test.config or next((str(value["config"]) for value in told), "")
    return (config, test.world_size) if config else None


def _add(row: Row, test: Test) -> None:
    check = test.check or ("against" if test.told("against") else "")
    if check:
        ranked = list(SIGNS)
        before = row.outcomes.get(check, "passed")
        row.outcomes[check] = min(before, test.outcome, key=ranked.index)
    row.training = row.training or next(iter(test.told("training")), {})
    row.against = row.against or next(iter(test.told("against")), {})


def said_of(against: Mapping[str, Any]) -> list[str]:
    """What a comparison with the base says beyond findings and checkpoint: costs, then notes."""
    said = [*against.get("costs", []), *against.get("notes", [])]
    return [str(line) for line in dict.fromkeys(said) if line != against.get("checkpoint")]


def finite(values: Sequence[float | None]) -> list[float]:
    """Those that are numbers and finite."""
    return [value for value in values if value is not None and math.isfinite(value)]


def quantile(values: Sequence[float], q: float) -> float:
    """Of at least one value, interpolated linearly between the two that are nearest."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def number(value: float | None) -> str:
    """With four digits that matter; ``"-"`` for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def first_to_last(values: Sequence[float | None]) -> str:
    """``"2.765 → 1.869"``."""
    return f"{number(values[0])} → {number(values[-1])}" if values else ""
