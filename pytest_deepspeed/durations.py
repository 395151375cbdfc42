"""``--durations``: of the slowest tests on ranks, where their time went."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_deepspeed.values.cost import Cost

_COLUMNS = [field.name for field in dataclasses.fields(Cost)]


def configure(config: pytest.Config) -> None:
    """Shows them where pytest shows durations."""
    if config.getoption("durations", None) is not None:
        config.pluginmanager.register(Durations(), "pytest_deepspeed_costs")


class Durations:
    """Collects what each test's ranks cost, which comes with the report of its set-up."""

    def __init__(self) -> None:
        self._costs: list[tuple[Cost, str]] = []

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes it; from a worker of xdist too, as plain numbers."""
        cost: list[float] | None = getattr(report, "ds_cost", None)
        if cost is not None:
            self._costs.append((Cost(*cost), report.nodeid))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """A line for each, as many as ``--durations`` says and as long as ``--durations-min``."""
        least = 0.0 if config.option.verbose > 1 else (config.option.durations_min or 0.0)
        slowest = sorted(self._costs, key=lambda known: -known[0].total)
        slowest = [known for known in slowest if known[0].total >= least]
        if config.option.durations:
            slowest = slowest[: config.option.durations]
        if not slowest:
            return
        terminalreporter.section("slowest tests on ranks, in seconds")
        terminalreporter.write_line(" ".join(name.rjust(8) for name in _COLUMNS))
        for cost, nodeid in slowest:
            parts = " ".join(f"{seconds:8.2f}" for seconds in dataclasses.astuple(cost))
            terminalreporter.write_line(f"{parts} {nodeid}")
