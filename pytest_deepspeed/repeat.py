"""The command that repeats a failure on ranks of torchrun, without controller and agent."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.values.world import World


def of_test(item: pytest.Item, world: World) -> str:
    """The command that runs a test's body on as many ranks, with its fixtures."""
    start = item.config.invocation_params.dir
    shown = item.path.relative_to(start) if item.path.is_relative_to(start) else item.path
    _, _, rest = item.nodeid.partition("::")
    return _torchrun(world, f"{shown}::{rest}", f"--ds-seed={world.seed}")


def of_call(call: dict[str, Any], world: World, folder: Path) -> str:
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
    return _torchrun(world, "--call", str(file))


def _torchrun(world: World, *arguments: str) -> str:
    return shlex.join(
        [
            "env",
            "OMP_NUM_THREADS=1",
            f"DS_ACCELERATOR={world.device}",
            "torchrun",
            "--standalone",
            f"--nproc_per_node={world.world_size}",
            "-m",
            "pytest_deepspeed",
            *arguments,
        ]
    )
