"""A pytest plugin: writes each test's outcome to a file, and leaves out what that file has already.

Stands alone, since it is also for an environment that has nothing else of this project.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

#: From good to bad: the worst of a test's phases is its outcome.
_ORDER = ("skipped", "passed", "failed", "error")


def pytest_configure(config: pytest.Config) -> None:
    """Records in the process that shows the tests; agents and ranks have a ``workerinput``."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(Path(os.environ["SUITE_LOG"])))


class _Recorder:
    def __init__(self, log: Path) -> None:
        self._log = log
        self._outcomes: list[str] = []
        self._text = ""
        self._began = 0.0

    def _write(self, **line: Any) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        done = {json.loads(line)["test"] for line in lines}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._outcomes, self._text, self._began = [], "", time.monotonic()
        # What ends the session in the middle of a test leaves this as its last word.
        self._write(test=nodeid, outcome="ended the session", seconds=0, text="")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        failed_outside = report.outcome == "failed" and report.when != "call"
        if report.outcome != "passed" or report.when == "call":
            self._outcomes.append("error" if failed_outside else report.outcome)
            self._text = self._text or _reason(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        worst = max(self._outcomes, key=_ORDER.index, default="passed")
        seconds = round(time.monotonic() - self._began, 3)
        self._write(test=nodeid, outcome=worst, seconds=seconds, text=self._text[:4000])


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash else str(report.longrepr or "")[-4000:]
