"""Where in the repository what was found stands: what annotations, SARIF and GitLab share."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterator
from typing import Any

from pytest_deepspeed.reporting import texts
from pytest_deepspeed.reporting.model import Report, Test


@dataclasses.dataclass(frozen=True)
class Place:
    """One thing found.

    Attributes:
        path: of the file, from the root of the repository.
        line, column: from 1; 0 where it is about more than one.
        rule: the id of a rule, ``against.NAME``, or the name of a check.
        name: says what it is.
        severity: ``"error"`` or ``"warning"``.
        message: one line.
        suppressed: why it does not count; ``None`` where it does.
        own: whether it is of this plugin's own tests.
    """

    path: str
    line: int
    column: int
    rule: str
    name: str
    severity: str
    message: str
    suppressed: str | None = None
    own: bool = True


def in_repository(report: Report, path: str) -> str:
    """A path from pytest's root directory as one from the root of the repository."""
    return posixpath.normpath(f"{report.prefix}{path}")


def problems(report: Report) -> Iterator[Place]:
    """What the rules found, suppressed or not, each once."""
    seen: set[Place] = set()
    for test in report.tests:
        for kind in ("problem", "suppressed"):
            for told in test.told(kind):
                place = _problem(report, told)
                if place not in seen:
                    seen.add(place)
                    yield place


def _problem(report: Report, told: dict[str, Any]) -> Place:
    words = [texts.one_line(told[part], 1000) for part in ("message", "instead") if told[part]]
    return Place(
        path=in_repository(report, str(told["path"])),
        line=int(told["line"]),
        column=int(told["column"]),
        rule=str(told["rule"]),
        name=str(told["name"]),
        severity=str(told["severity"]),
        message="; ".join(words),
        suppressed=str(told["reason"]) if "reason" in told else None,
    )


def failures(report: Report) -> Iterator[Place]:
    """Each failed test that is not a rule's, at its line; what differs from the base."""
    for test in report.failures:
        found = [
            (f"against.{finding['name']}", finding["message"])
            for told in test.told("against")
            if told["verdict"] == "red"
            for finding in told.get("findings", [])
        ]
        if any(told["severity"] == "error" for told in test.told("problem")):
            continue
        for rule, message in found or [(test.check or test.outcome, _said(test))]:
            yield Place(
                path=in_repository(report, test.path),
                line=test.line,
                column=0,
                rule=rule,
                name=texts.one_line(test.nodeid),
                severity="error",
                message=texts.one_line(message, 1000),
                own=bool(test.check or test.details),
            )


def _said(test: Test) -> str:
    return "; ".join(test.reason) or test.message or test.outcome
