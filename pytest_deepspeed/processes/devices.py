"""What this machine can run ranks on, without importing torch."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_deepspeed.values.errors import WorldSizeError
from pytest_deepspeed.values.world import RANKS_PER_CORE, max_cpu_world_size

DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "gloo", "nccl")


def granted_gpus() -> int:
    """GPUs that this process may use: those of the machine, within ``CUDA_VISIBLE_DEVICES``."""
    nodes = Path("/proc/driver/nvidia/gpus")
    present = len(list(nodes.iterdir())) if nodes.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    named = [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    return min(present, len(named))


def resolve(device: str, backend: str) -> tuple[str, str]:
    """``auto`` settled: device ``"cpu"`` or ``"cuda"``, backend ``"gloo"`` or ``"nccl"``.

    Raises:
        ValueError: CUDA is asked for and there is none, or NCCL without CUDA.
    """
    gpus = granted_gpus()
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and not gpus:
        raise ValueError(
            "--ds-device=cuda, but this process has no GPU (none under /proc/driver/nvidia, or"
            " CUDA_VISIBLE_DEVICES hides them): use --ds-device=cpu"
        )
    if backend == "auto":
        backend = "nccl" if device == "cuda" else "gloo"
    if backend == "nccl" and device == "cpu":
        raise ValueError("--ds-backend=nccl needs GPUs: use --ds-backend=gloo")
    return device, backend


def check_world_size(world_size: object, where: str) -> int:
    """The world size, if it is one.

    Args:
        where: who asks for it; starts the message.

    Raises:
        WorldSizeError: not a positive integer, or more ranks than this machine may hold.
    """
    if isinstance(world_size, bool) or not isinstance(world_size, int) or world_size < 1:
        raise WorldSizeError(
            f"{where}: world_size must be a positive integer, got {world_size!r}:"
            " write world_size(2)"
        )
    most = max_cpu_world_size()
    if world_size > most:
        cores = most // RANKS_PER_CORE
        raise WorldSizeError(
            f"{where}: world_size {world_size} is more than the {most} ranks this machine may hold"
            f" ({RANKS_PER_CORE} for each of {cores} cores): use --ds-world-size={most} or fewer"
        )
    return world_size
