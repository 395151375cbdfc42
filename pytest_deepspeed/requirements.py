"""What a test needs of the machine: a skip that says what is missing, or with ``--ds-require`` a
failure.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_deepspeed.markers import nodes_of
from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.processes import devices
from pytest_deepspeed.values import role
from pytest_deepspeed.values.world import under_torchrun


def need_nvme(settings: Settings, path: Path) -> None:
    """Skips the test where nothing can be offloaded to NVMe in a directory."""
    from pytest_deepspeed.training.machine import Machine

    reason = Machine.find(settings.device, path).no_nvme
    if reason is not None and "nvme" in settings.require:
        pytest.fail(f"--ds-require=nvme: {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(reason)


def too_few_gpus(settings: Settings, world_size: int) -> str:
    """Why NCCL cannot have so many ranks on this machine; empty where it can, or in a Slurm job."""
    if settings.backend != "nccl" or settings.launcher == "slurm":
        return ""
    nodes = [launch.node for launch in settings.launches] or [""]
    gpus = [devices.granted_gpus()] * len(nodes)
    return devices.too_few_gpus(world_size, nodes, gpus, one=True)


def lacks_gpus(item: pytest.Item, text: str) -> NoReturn:
    """Skips a test whose world has too few GPUs, or fails it (``--ds-require=cuda``)."""
    __tracebackhide__ = True
    if "cuda" in item.config.stash[SETTINGS].require:
        pytest.fail(f"--ds-require=cuda: {text}", pytrace=False)
    # A check of a config file has no line to point at.
    raise pytest.skip.Exception(text, _use_item_location=item.location[1] is not None)


def need_nodes(item: pytest.Item) -> None:
    """Skips a ``multinode`` test where there are fewer nodes, or fails it (``--ds-require``)."""
    __tracebackhide__ = True
    needed = nodes_of(item)
    if needed == 1 or role.current() == "rank":
        return
    settings = item.config.stash[SETTINGS]
    there = settings.nodes or 1
    if under_torchrun():
        there = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if there >= needed:
        return
    text = (
        f"needs {needed} nodes and has {there}: pytest --ds-nodes={needed} in a Slurm job, or with"
        " --ds-launcher=local to emulate them"
    )
    if "slurm" in settings.require:
        pytest.fail(f"--ds-require=slurm: {text}", pytrace=False)
    raise pytest.skip.Exception(text, _use_item_location=True)
