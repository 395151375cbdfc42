"""A plugin for `long_session`: after each test, what controller and agent hold."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from benchmarks.long_session import state
from pytest_deepspeed.values import role

_began = 0.0


def pytest_runtest_logstart() -> None:
    global _began
    _began = time.perf_counter()


def pytest_runtest_logfinish() -> None:
    if role.current() != "controller":
        return
    seconds = time.perf_counter() - _began
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    seen = {
        "seconds": seconds,
        "controller": state(os.getpid()),
        "agent": state(int(children[0])),
        "segments": len(os.listdir("/dev/shm")),
    }
    with Path(os.environ["WATCH_LOG"]).open("a") as log:
        log.write(json.dumps(seen) + "\n")
