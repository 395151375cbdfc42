"""What all reports are made from: one session, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

#: Every outcome of a test, the worst first, with the sign that stands beside its word.
SIGNS = {
    "error": "✗",
    "failed": "✗",
    "interrupted": "✗",
    "not run": "○",
    "xpassed": "!",
    "xfailed": "≈",
    "skipped": "-",
    "passed": "✓",
}


@dataclasses.dataclass(frozen=True)
class Test:
    """One test, or what could not be collected.

    Attributes:
        nodeid: pytest's.
        path: of its file, from the root directory, with slashes.
        line: from 1; 0 for the whole file.
        outcome: one of `SIGNS`: ``error`` where set-up, teardown or collecting failed,
            ``interrupted`` where it had begun and did not end.
        seconds: of set-up, call and teardown.
        check: of a check's test, which; of several the last.
        config: the config that it is about: a file or a case id; empty where there is none.
        mode: the case id of what was trained.
        world_size: ranks; 0 where it has none.
        message: why it is not passed, in one line.
        reason: the same in a few lines.
        text: the whole failure, without what is told of single ranks.
        ranks: of that the parts about ranks: title and text.
        sections: captured output: title and text.
        properties: as in the JUnit file.
        details: of `pytest_deepspeed.reporting.details`, by kind.
    """

    nodeid: str
    path: str = ""
    line: int = 0
    outcome: str = "not run"
    seconds: float = 0.0
    check: str = ""
    config: str = ""
    mode: str = ""
    world_size: int = 0
    message: str = ""
    reason: tuple[str, ...] = ()
    text: str = ""
    ranks: tuple[tuple[str, str], ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    properties: tuple[tuple[str, Any], ...] = ()
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    __test__ = False  # no test class of whoever imports it

    @property
    def red(self) -> bool:
        """Whether it failed."""
        return self.outcome in ("error", "failed", "interrupted")

    def told(self, kind: str) -> list[dict[str, Any]]:
        """What it told of a kind."""
        return list(self.details.get(kind, []))


@dataclasses.dataclass(frozen=True)
class Report:
    """One session.

    Attributes:
        version: of this plugin.
        started: ISO 8601, with the time zone.
        seconds: that it took.
        command: what was typed, as far as pytest knows.
        rootdir: pytest's root directory, without the directories above it.
        prefix: from the root of the repository to the root directory, ``"training/"``; empty where
            both are one, or there is no repository.
        machine: what it ran on: names and values.
        exit_status: pytest's.
        incomplete: why not all tests ran; empty where they did.
        header: what pytest's header says of this plugin.
        tests: those that ran, in the order in which they began, then those that did not.
        errors: what could not be collected.
    """

    version: str
    started: str
    seconds: float
    command: str
    rootdir: str
    prefix: str
    machine: dict[str, str]
    exit_status: int
    incomplete: str
    header: tuple[str, ...]
    tests: tuple[Test, ...]
    errors: tuple[Test, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all tests ran."""
        return not self.incomplete

    @property
    def failures(self) -> list[Test]:
        """What is red, in its order: first what could not be collected."""
        return [test for test in (*self.errors, *self.tests) if test.red]

    @property
    def counts(self) -> dict[str, int]:
        """How many tests had which outcome, the worst first, without zeros."""
        outcomes = [test.outcome for test in (*self.errors, *self.tests)]
        return {name: outcomes.count(name) for name in SIGNS if name in outcomes}

    @property
    def red(self) -> bool:
        """Whether something failed, or the session did not end as it should."""
        return bool(self.failures) or self.exit_status not in (0, 5)

    @property
    def verdict(self) -> str:
        """``"2 failed, 14 passed"``."""
        return ", ".join(f"{n} {name}" for name, n in self.counts.items()) or "no tests ran"
