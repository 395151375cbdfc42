"""The command that repeats a failure on ranks of torchrun, without controller and agent."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.processes.launch import Launch
from pytest_deepspeed.values.world import World, spread

#: Where torchrun's agents meet when a failure over nodes is repeated: its own default.
_PORT = 29400


def of_test(item: pytest.Item, world: World, launches: Sequence[Launch]) -> str:
    """The command that runs a test's body on as many ranks, with its fixtures.

    Args:
        launches: of the nodes that it was spread over.
    """
    start = item.config.invocation_params.dir
    shown = item.path.relative_to(start) if item.path.is_relative_to(start) else item.path
    _, _, rest = item.nodeid.partition("::")
    return _torchrun(world, launches, f"{shown}::{rest}", f"--ds-seed={world.seed}")


def of_fixture(item: pytest.Item, world: World) -> str:
    """The command that runs a test with a distributed fixture of it, whose world is another."""
    return shlex.join(["pytest", item.nodeid, f"--ds-seed={world.seed}"])


def of_call(call: dict[str, Any], world: World, folder: Path, launches: Sequence[Launch]) -> str:
    """The command that calls what `ds_run` called; the arguments are kept in ``folder``."""
    file = folder / "call.json"
    file.write_text(
        json.dumps(
            {
                **call,
                "seed": world.seed,
                "backend": world.backend,
                "init_process_group": world.init_process_group,
            }
        )
    )
    return _torchrun(world, launches, "--call", str(file))


def _torchrun(world: World, launches: Sequence[Launch], *arguments: str) -> str:
    nodes = spread(world.world_size, [launch.node for launch in launches])
    start = ["torchrun", "--standalone", f"--nproc_per_node={world.world_size}"]
    # Where srun can start the same on each; otherwise one node with as many ranks must do.
    if launches[0].remote and len(nodes) > 1 and world.world_size % len(nodes) == 0:
        start = [
            *("srun", f"--nodes={len(nodes)}", "--ntasks-per-node=1", "--overlap", "torchrun"),
            *(f"--nnodes={len(nodes)}", f"--nproc_per_node={nodes[0].local_world_size}"),
            *("--rdzv_backend=c10d", f"--rdzv_id={uuid.uuid4().hex[:8]}"),
            f"--rdzv_endpoint={nodes[0].node}:{_PORT}",
        ]
    given = ["env", "OMP_NUM_THREADS=1", f"DS_ACCELERATOR={world.device}"]
    return shlex.join([*given, *start, "-m", "pytest_deepspeed", *arguments])
