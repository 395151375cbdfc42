"""What a test tells the reports beyond its flat properties: plain JSON values, by kind.

They come with the report of the test's call, with and without ``-n``. Kinds:

- ``problem``, ``suppressed``: what a rule found, of `problem` below; a suppressed one has a reason.
- ``training``: what a check trained, of `pytest_deepspeed.reporting.trained.told`.
- ``against``: a config beside that of the base.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_deepspeed.configs.problem import Problem

DETAILS = pytest.StashKey[dict[str, list[Any]]]()

#: The attribute of a call's report that they stand in.
ATTRIBUTE = "ds_details"


def tell(item: pytest.Item, kind: str, value: Any) -> None:
    """Adds a plain JSON value to the report of the item's call, once."""
    told = item.stash.setdefault(DETAILS, {}).setdefault(kind, [])
    if value not in told:
        told.append(value)


def problem(item: pytest.Item, found: Problem, reason: str | None = None) -> None:
    """Tells what a rule found in the item's file.

    Args:
        reason: why it is suppressed, where it is.
    """
    value: dict[str, Any] = {
        "path": Path(os.path.relpath(item.path, item.config.rootpath)).as_posix(),
        "line": found.line,
        "column": found.column,
        "rule": found.rule,
        "name": found.name,
        "severity": found.severity,
        "message": found.does,
        "instead": found.instead,
    }
    if reason is None:
        tell(item, "problem", value)
    else:
        tell(item, "suppressed", {**value, "reason": reason})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hands them over, once: a test that is run again tells anew."""
    report = yield
    if call.when == "call" and DETAILS in item.stash:
        setattr(report, ATTRIBUTE, item.stash[DETAILS])
        del item.stash[DETAILS]
    return report


def of(report: pytest.TestReport) -> dict[str, list[Any]]:
    """What a report brings of them."""
    return dict(getattr(report, ATTRIBUTE, {}))
