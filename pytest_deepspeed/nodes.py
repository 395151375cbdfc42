"""The nodes of ``--ds-nodes``: how their agents are started, and how many ranks they may hold."""

from __future__ import annotations

import sys

import pytest

from pytest_deepspeed.processes import launch, slurm
from pytest_deepspeed.processes.devices import Capacity
from pytest_deepspeed.processes.launch import Launch
from pytest_deepspeed.values import role
from pytest_deepspeed.values.errors import LaunchError
from pytest_deepspeed.values.world import cores


def settle(
    nodes: int | None, launcher: str | None, where: str, config: pytest.Config
) -> tuple[str | None, tuple[Launch, ...], Capacity]:
    """The launcher, how it starts each agent, and how many ranks they may hold.

    Args:
        nodes: of ``--ds-nodes``.
        launcher: of ``--ds-launcher``, and where it stands.

    Raises:
        pytest.UsageError: there is no such allocation, or a launcher and nothing to start.
    """
    if launcher is not None and nodes is None:
        raise pytest.UsageError(
            f"{where}={launcher} says how nodes are started, and none are asked for: add"
            " --ds-nodes=2"
        )
    if nodes is None or launcher == "local":
        return launcher, tuple(launch.here(nodes)), Capacity.of_this_machine()
    if role.current() != "controller":
        return "slurm", (), Capacity(sys.maxsize, "these nodes")  # the controller has counted
    try:
        allocation = slurm.granted(nodes, config.invocation_params.args)
    except LaunchError as error:
        raise pytest.UsageError(str(error)) from None
    total = sum(count or cores() for count in allocation.cpus)
    holder = f"these {nodes} nodes" if nodes > 1 else "this node"
    return "slurm", tuple(launch.by_srun(allocation)), Capacity(total, holder)
