"""GitHub's annotations: workflow commands, which a runner reads from what a step prints.

Syntax: docs.github.com, "Workflow commands for GitHub Actions"; what is escaped, and how:
``actions/toolkit``, ``packages/core/src/command.ts``. GitHub shows ten errors and ten warnings of a
step.
"""

from __future__ import annotations

from pytest_deepspeed.reporting import places, texts
from pytest_deepspeed.reporting.model import Report
from pytest_deepspeed.reporting.places import Place


def lines(report: Report, *, narrow: bool = False) -> list[str]:
    """One command for each thing found, errors first.

    Args:
        narrow: leave out tests that are none of a config or script.
    """
    found = [*places.problems(report), *places.failures(report)]
    shown = [p for p in found if p.suppressed is None and (p.own or not narrow)]
    return [_command(place) for place in sorted(shown, key=lambda p: p.severity != "error")]


def _command(place: Place) -> str:
    named = {"file": place.path}
    if place.line:
        named["line"] = str(place.line)
    if place.line and place.column:
        named["col"] = str(place.column)
    named["title"] = f"{place.rule} {place.name}"
    parts = ",".join(f"{name}={_property(value)}" for name, value in named.items())
    return f"::{place.severity} {parts}::{_data(place.message)}"


def _data(text: str) -> str:
    shown = texts.visible(text).replace("%", "%25")
    return shown.replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
