"""One test of a `Report`, from what pytest reports of its phases."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_deepspeed.reporting import details, texts
from pytest_deepspeed.reporting.model import Test

Location = tuple[str, int | None, str]


def test(nodeid: str, location: Location | None, phases: Sequence[Any] | None) -> Test:
    """A test from its phases; ``None`` for one that has not begun, none for one that broke off."""
    path, line, _ = location or (nodeid.partition("::")[0], None, "")
    base = Test(nodeid=nodeid, path=path, line=0 if line is None else line + 1)
    if phases is None:
        return base
    decisive, outcome = _decisive(phases)
    properties = _properties(phases)
    told = {kind: values for phase in phases for kind, values in details.of(phase).items()}
    named = dict(properties)
    trained: dict[str, Any] = next(iter(told.get("training", [])), {})
    text, ranks = _failure(decisive) if decisive is not None else ("", ())
    if outcome == "interrupted":
        text = "It had begun when the session ended, and has no report."
    message = _message(decisive, text)
    return dataclasses.replace(
        base,
        outcome=outcome,
        seconds=sum(phase.duration for phase in phases),
        check=str(named.get("ds_check", "")),
        config=str(named.get("ds_mode", "")) if "ds_check" in named else "",
        mode=str(trained.get("mode", "" if "ds_check" in named else named.get("ds_mode", ""))),
        world_size=int(named.get("ds_world_size", 0)),
        message=texts.one_line(message),
        reason=texts.first_lines(message if "\n" in message else text or message),
        text=text,
        ranks=ranks,
        sections=tuple(_sections(phases)),
        properties=properties,
        details=told,
    )


def collect_error(report: pytest.CollectReport) -> Test:
    """What could not be collected, as a test that failed."""
    text, _ = _failure(report)
    last = [line for line in text.splitlines() if line.startswith("E ")] or text.splitlines()
    message = last[0].removeprefix("E").strip() if last else "it could not be collected"
    return Test(
        nodeid=report.nodeid,
        path=report.nodeid.partition("::")[0],
        outcome="error",
        message=texts.one_line(message),
        reason=texts.first_lines("\n".join(line.removeprefix("E").strip() for line in last)),
        text=text,
        sections=tuple((str(name), str(said)) for name, said in report.sections),
    )


def _decisive(phases: Sequence[Any]) -> tuple[Any, str]:
    """The phase that says most, and the test's outcome."""
    for phase in phases:
        if phase.failed:
            return phase, "error" if phase.when in ("setup", "teardown") else "failed"
    for phase in phases:
        if hasattr(phase, "wasxfail"):
            return phase, "xfailed" if phase.skipped else "xpassed"
        if phase.skipped:
            return phase, "skipped"
    # Set-up alone is what a test leaves whose body was interrupted.
    ended = any(phase.when == "teardown" for phase in phases)
    return None, "passed" if ended else "interrupted"


def _failure(report: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What is shown of it, and of that the parts about ranks."""
    if getattr(report, "skipped", False):
        return "", ()
    longrepr = report.longrepr
    parts = tuple((str(name), str(text)) for name, text, _ in getattr(longrepr, "sections", []))
    if parts:
        longrepr = copy.copy(longrepr)
        longrepr.sections = []
    return ("" if longrepr is None else str(longrepr)), parts


def _message(report: Any, text: str) -> str:
    if report is None:
        return text
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ") or "expected to fail"
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else text
        return str(reason).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message).removeprefix("Failed: ") if crash is not None else text


def _properties(phases: Sequence[Any]) -> tuple[tuple[str, Any], ...]:
    """Each once: a later phase repeats those of the earlier ones."""
    found: dict[tuple[str, str], Any] = {}
    for phase in phases:
        for name, value in phase.user_properties:
            found[str(name), repr(value)] = value
    return tuple((name, _plain(value)) for (name, _), value in found.items())


def _plain(value: Any) -> Any:
    """As JSON can have it."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _sections(phases: Sequence[Any]) -> list[tuple[str, str]]:
    """Captured output, each once: a later phase repeats that of the earlier ones."""
    found = {(str(name), str(text)): None for phase in phases for name, text in phase.sections}
    return list(found)
