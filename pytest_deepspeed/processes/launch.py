"""How the agents of a session are started: as children of this process, or by srun on nodes."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

from pytest_deepspeed.processes import slurm

LAUNCHERS = ("slurm", "local")


@dataclasses.dataclass(frozen=True)
class Launch:
    """How one agent is started.

    Attributes:
        node: the name of its node, for messages; empty for the only agent of this machine.
        node_rank: the node's number in the session, from 0.
        command: the command line that runs the one it is given there.
        environment: of the process that is started here.
        remote: whether it runs on another machine, or may.
        explain: what made it end, from its last words and its exit status; empty if unknown.
    """

    node: str
    node_rank: int
    command: Callable[[list[str]], list[str]]
    environment: Mapping[str, str]
    remote: bool
    explain: Callable[[str, int], str]


def here(nodes: int | None = None) -> list[Launch]:
    """This machine: one agent, or as many as nodes are emulated by it."""
    names = [""] if nodes is None else [f"node{i}" for i in range(nodes)]
    return [
        Launch(name, i, lambda command: command, os.environ, False, lambda *_: "")
        for i, name in enumerate(names)
    ]


def by_srun(allocation: slurm.Allocation) -> list[Launch]:
    """One agent on each node of a Slurm allocation."""

    def on(index: int) -> Launch:
        return Launch(
            allocation.nodes[index],
            index,
            lambda command: slurm.srun_command(allocation, index, command),
            slurm.srun_environment(os.environ),
            True,
            _explain,
        )

    return [on(index) for index in range(len(allocation.nodes))]


def _explain(words: str, status: int) -> str:
    if "No module named 'pytest_deepspeed'" in words or "No module named 'pytest'" in words:
        return (
            f"{sys.executable} lacks this package there: all nodes need the same environment, which"
            " slurm/config_env.sh makes on each"
        )
    return slurm.why_srun_failed(words, status)


def agent_command(sys_path: list[str]) -> list[str]:
    """``-c`` and not ``-m``: what ranks start by spawn imports ``__main__`` again."""
    code = (
        f"import sys; sys.path[:] = {sys_path!r};"
        " from pytest_deepspeed.processes.agent import main; main()"
    )
    return [sys.executable, *_args_from_interpreter_flags(), "-c", code]
