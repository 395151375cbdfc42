"""What this machine can run ranks on, without importing torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_deepspeed.values.errors import WorldSizeError
from pytest_deepspeed.values.world import RANKS_PER_CORE, cores, spread

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "gloo", "nccl")


def granted_gpus() -> int:
    """GPUs that this process may use: those of the machine, within ``CUDA_VISIBLE_DEVICES``."""
    nodes = Path("/proc/driver/nvidia/gpus")
    present = len(list(nodes.iterdir())) if nodes.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return present if visible is None else min(present, named_gpus(visible))


def named_gpus(visible: str) -> int:
    """How many GPUs a value of ``CUDA_VISIBLE_DEVICES`` names, as CUDA reads it.

    What stands behind a name that is none (``-1``, Slurm's ``NoDevFiles``) is not seen, and of the
    slices of GPUs (MIG) a process has the first alone. Source: CUDA C++ Programming Guide, "CUDA
    Environment Variables".
    """
    count = 0
    for name in map(str.strip, visible.split(",")):
        if name.startswith("MIG-"):
            return max(count, 1)
        if not name.isdigit() and not name.startswith("GPU-"):
            break
        count += 1
    return count


def names_of_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [] if visible is None else [name.strip() for name in visible.split(",")]
    count = granted_gpus()
    return names[:count] or [str(index) for index in range(count)]


def torch_without_cuda() -> str:
    """The version of a torch that its name says is built without CUDA; empty for any other."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
    return version if version.endswith("+cpu") else ""


def gpu_of(local_rank: int, gpus: int) -> int:
    """The index of the GPU that a rank computes on. With gloo more ranks than GPUs share them."""
    return local_rank % gpus


def of_rank(device: str, local_rank: int) -> torch.device:
    """The device of a rank: ``cpu``, or ``cuda:0`` and so on. Without side effects on CUDA.

    Raises:
        RuntimeError: ranks are to run on CUDA, and torch finds no GPU.
    """
    import torch

    if device != "cuda":
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if not gpus:
        why = "finds no GPU here" if torch.version.cuda else "is built without CUDA"
        raise RuntimeError(
            f"ranks are to run on CUDA, and the installed torch {torch.__version__} {why}: see what"
            " nvidia-smi and CUDA_VISIBLE_DEVICES say, or use --ds-device=cpu"
        )
    return torch.device("cuda", gpu_of(local_rank, gpus))


def too_few_gpus(world_size: int, nodes: Sequence[str], gpus: Sequence[int], one: bool) -> str:
    """Why a world cannot run with NCCL, which refuses two ranks on one GPU; empty where it can.

    Args:
        nodes: names of those that it may be spread over; of one alone the name may be empty.
        gpus: of each.
        one: whether these are emulated on one machine, whose GPUs they then share.
    """
    places = spread(world_size, nodes)
    if one and len(places) > 1:
        return (
            f"world_size {world_size} puts ranks of {len(places)} emulated nodes on the same GPUs,"
            " and NCCL refuses two ranks on one: --ds-backend=gloo lets ranks share a GPU, and in a"
            " Slurm job --ds-nodes has nodes of its own"
        )
    short = [(p, n) for p, n in zip(places, gpus, strict=False) if p.local_world_size > n]
    if not short:
        return ""
    place, there = short[0]
    needed = f"{place.local_world_size} GPU{'s' * (place.local_world_size > 1)}"
    where = f" on {place.node}" if place.node else ""
    most = max(1, min(gpus) * len(gpus))
    return (
        f"world_size {world_size} needs {needed}{where} with NCCL, which refuses two ranks on one,"
        f" and {place.node or 'this process'} has {there}: --ds-backend=gloo lets ranks share a"
        f" GPU, --ds-world-size={most} runs marked tests and configs on fewer ranks"
    )


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
    without = torch_without_cuda()
    if device == "auto":
        device = "cuda" if gpus and not without else "cpu"
    if device == "cuda" and not gpus and not in_slurm:
        raise ValueError(
            "--ds-device=cuda, but this process has no GPU (none under /proc/driver/nvidia, or"
            " CUDA_VISIBLE_DEVICES hides them): use --ds-device=cpu"
        )
    if device == "cuda" and without:
        raise ValueError(
            f"--ds-device=cuda, but the installed torch {without} is built without CUDA: install"
            " one that has it (pip install torch), or use --ds-device=cpu"
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
