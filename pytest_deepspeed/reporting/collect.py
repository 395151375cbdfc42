"""Gathers a session into a `Report`, and writes what ``--ds-report`` asks for at its end."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from pytest_deepspeed.ending import Ending
from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.reporting import about, details, gathered
from pytest_deepspeed.reporting.model import Report, Test
from pytest_deepspeed.reporting.targets import Target


def register(config: pytest.Config) -> None:
    """Lets tests tell details, and the process that has all reports write what is asked for."""
    config.pluginmanager.register(details, "pytest_deepspeed_details")
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    asked = config.stash[SETTINGS].report
    # GitHub reads annotations from what a step prints: there they need not be asked for.
    by_itself = (
        os.environ.get("GITHUB_ACTIONS") == "true" and getattr(config.option, "verbose", 0) >= 0
    )
    own = Target("github", None)
    if by_itself and own not in asked:
        config.pluginmanager.register(
            Collector(config, (*asked, own), narrow=True), "pytest_deepspeed_report"
        )
    elif asked:
        config.pluginmanager.register(Collector(config, asked), "pytest_deepspeed_report")


class Collector:
    """Sees the reports of all tests, those of xdist's workers too.

    Args:
        config: the session's config.
        targets: what is to be written.
        narrow: whether annotations are of this plugin's own tests alone, since nobody asked.
    """

    def __init__(
        self, config: pytest.Config, targets: tuple[Target, ...], *, narrow: bool = False
    ) -> None:
        self._config = config
        self._targets = targets
        self._narrow = narrow
        self._began = time.time()
        self._known: dict[str, tuple[str, int | None, str]] = {}
        self._phases: dict[str, list[pytest.TestReport]] = {}
        self._errors: list[Test] = []
        self._why = ""
        self._lines: list[str] | None = None

    # What runs

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Where xdist has workers, this process hears of SIGTERM by itself."""
        if getattr(self._config.option, "dist", "no") != "no":
            self._end_in_order()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Notes what is to run."""
        for item in session.items:
            self._known[item.nodeid] = item.location
        self._end_in_order()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """The same, of a worker."""
        del node
        for nodeid in ids:
            self._known.setdefault(nodeid, (nodeid.partition("::")[0], None, nodeid))

    def _end_in_order(self) -> None:
        """SIGTERM ends a session that has a report to write in order, with and without ranks."""
        if not self._config.pluginmanager.hasplugin("pytest_deepspeed_ending"):
            Ending.take_over(self._config)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Takes what could not be collected."""
        if report.failed:
            self._errors.append(gathered.collect_error(report))

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        """Notes that a test begins."""
        self._known[nodeid] = location
        self._phases.setdefault(nodeid, [])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes a phase of a test; of one that is run again the last time counts."""
        phases = self._phases.setdefault(report.nodeid, [])
        if report.when == "setup":
            phases.clear()
        phases.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Notes what ended the session: Ctrl-C, ``pytest.exit``, or xdist's ``-x``."""
        said = str(excinfo.value)
        self._why = f"interrupted: {said}" if said else "interrupted (Ctrl-C)"

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: object) -> None:
        """Notes that pytest itself broke."""
        last = str(excrepr).strip().splitlines()
        self._why = f"an internal error of pytest: {last[-1].strip() if last else 'no message'}"

    # The end

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Writes the files, before the terminal's summary says which."""
        # A test that a broken session left under way has no report at all.
        why = self._why or str(session.shouldfail or session.shouldstop or "")
        self._write(why, int(exitstatus))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Says what was written, and what could not be."""
        for line in self._lines or []:
            terminalreporter.write_line(line)

    def _write(self, why: str, status: int) -> None:
        from pytest_deepspeed.reporting import writing

        report = self._report(why, status)
        self._lines = writing.write(report, self._targets, narrow=self._narrow)

    def _report(self, why: str, status: int) -> Report:
        tests = [
            gathered.test(nodeid, self._known.get(nodeid), phases)
            for nodeid, phases in self._phases.items()
        ]
        waiting = [nodeid for nodeid in self._known if nodeid not in self._phases]
        tests += [gathered.test(nodeid, self._known[nodeid], None) for nodeid in waiting]
        unfinished = sum(test.outcome in ("interrupted", "not run") for test in tests)
        if unfinished or (why and status not in (0, 1, 5)):
            of = f"{unfinished} of {len(tests)} tests did not run to their end"
            why = f"{of}: {why or 'the session ended before them'}" if unfinished else why
        else:
            why = ""
        header = about.header(self._config)
        return Report(
            version=about.version("pytest-deepspeed"),
            started=about.iso(self._began),
            seconds=time.time() - self._began,
            command=about.command(self._config),
            rootdir=self._config.rootpath.name,
            prefix=about.prefix(self._config.rootpath),
            machine=about.machine(self._config),
            exit_status=status,
            incomplete=why,
            header=tuple(header),
            tests=tuple(tests),
            errors=tuple(self._errors),
        )
