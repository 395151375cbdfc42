"""A rank that is not forked: a process that sets itself up as the agent did, then becomes a rank.

For an agent that must not be forked, since a module has started a thread or touched CUDA when it
was imported. It costs each rank the agent's imports, some seconds, and nothing else differs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]
from typing import Any

import pytest

from pytest_deepspeed.processes import containment
from pytest_deepspeed.processes.rank import RankJob, become_rank
from pytest_deepspeed.values import role
from pytest_deepspeed.values.world import Place, World

#: Seconds that are added to the start-up budget: every rank imports torch and DeepSpeed.
ALLOWANCE = 240.0


def start(job: RankJob, setup: dict[str, Any], order: dict[str, Any]) -> int:
    """Starts the process of a rank; returns its id."""
    orders = os.memfd_create("orders")
    text = json.dumps({"job": dataclasses.asdict(job), "setup": setup, "order": order})
    os.write(orders, text.encode())
    code = (
        f"import sys; sys.path[:] = {sys.path!r};"
        f" from pytest_deepspeed.processes.spawn import main; main({orders})"
    )
    passed = [orders, *_descriptors(job)]
    for fd in passed:
        os.set_inheritable(fd, True)
    try:
        argv = [sys.executable, *_args_from_interpreter_flags(), "-c", code]
        return os.posix_spawn(sys.executable, argv, os.environ)
    finally:
        for fd in passed:
            os.set_inheritable(fd, False)
        os.close(orders)


def _descriptors(job: RankJob) -> list[int]:
    own = [job.events, job.replies, job.stdout, job.stderr]
    return [*own, job.stack, job.segments, job.page]


def main(orders: int) -> None:
    """Entry point of the process."""
    from pytest_deepspeed.processes.setting_up import prepare

    told = json.loads(os.pread(orders, os.fstat(orders).st_size, 0))
    os.close(orders)
    own = told["job"]
    job = RankJob(**{**own, "world": World(**own["world"]), "place": Place(**own["place"])})
    for fd in _descriptors(job):
        os.set_inheritable(fd, False)
    os.dup2(job.stdout, 1)
    os.dup2(job.stderr, 2)
    containment.die_with_parent(job.agent)
    role.become("agent")
    config = prepare(told["setup"])
    config.pluginmanager.register(_Spawned(job, told["order"]), "pytest_deepspeed_spawned")
    config.hook.pytest_cmdline_main(config=config)


class _Spawned:
    """In place of pytest's own run-test loop: runs the one item as a rank."""

    def __init__(self, job: RankJob, order: dict[str, Any]) -> None:
        self._job = job
        self._order = order

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from pytest_deepspeed.processes.items import item_for

        items = {item.nodeid: item for item in session.items}
        become_rank(self._job, item_for(items, self._order))
