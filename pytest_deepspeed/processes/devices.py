"""What this machine can run ranks on, without importing torch."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from pytest_deepspeed.values.errors import WorldSizeError
from pytest_deepspeed.values.world import RANKS_PER_CORE, cores

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


def resolve(device: str, backend: str, in_slurm: bool) -> tuple[str, str]:
    """``auto`` settled: device ``"cpu"`` or ``"cuda"``, backend ``"gloo"`` or ``"nccl"``.

    Args:
        in_slurm: whether ranks run on the nodes of a Slurm job; this process may be on a login
            node, whose devices say nothing. Slurm does (``SLURM_GPUS_ON_NODE``), and each node's
            agent is asked.

    Raises:
        ValueError: CUDA is asked for and there is none, or NCCL without CUDA.
    """
    gpus = granted_gpus()
    if in_slurm:
        gpus = max(gpus, int(os.environ.get("SLURM_GPUS_ON_NODE") or 0))
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and not gpus and not in_slurm:
        raise ValueError(
            "--ds-device=cuda, but this process has no GPU (none under /proc/driver/nvidia, or"
            " CUDA_VISIBLE_DEVICES hides them): use --ds-device=cpu"
        )
    if backend == "auto":
        backend = "nccl" if device == "cuda" else "gloo"
    if backend == "nccl" and device == "cpu":
        raise ValueError("--ds-backend=nccl needs GPUs: use --ds-backend=gloo")
    return device, backend


@dataclasses.dataclass(frozen=True)
class Capacity:
    """How many ranks a CPU world may have.

    Attributes:
        cores: of all nodes together.
        holder: who holds them, for a message: ``"this machine"``, ``"these 2 nodes"``.
    """

    cores: int
    holder: str

    @classmethod
    def of_this_machine(cls) -> Capacity:
        """That of the cores that this process may use."""
        return cls(cores(), "this machine")


def check_world_size(world_size: object, where: str, capacity: Capacity) -> int:
    """The world size, if it is one.

    Args:
        where: who asks for it; starts the message.
        capacity: what there is to run it on.

    Raises:
        WorldSizeError: not a positive integer, or more ranks than there is room for.
    """
    if isinstance(world_size, bool) or not isinstance(world_size, int) or world_size < 1:
        raise WorldSizeError(
            f"{where}: world_size must be a positive integer, got {world_size!r}:"
            " write world_size(2)"
        )
    most = RANKS_PER_CORE * capacity.cores
    if world_size > most:
        raise WorldSizeError(
            f"{where}: world_size {world_size} is more than the {most} ranks {capacity.holder} may"
            f" hold ({RANKS_PER_CORE} for each of {capacity.cores} cores): use"
            f" --ds-world-size={most} or fewer"
        )
    return world_size
