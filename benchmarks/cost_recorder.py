"""A plugin for sessions that are timed: writes what the ranks of each test cost, as JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_deepspeed.processes import devices

# Where worlds grow beyond what is of use.
devices.RANKS_PER_CORE = 64


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    cost = getattr(report, "ds_cost", None)
    if cost is not None:
        with Path(os.environ["COST_LOG"]).open("a") as log:
            log.write(json.dumps([report.nodeid, cost]) + "\n")
