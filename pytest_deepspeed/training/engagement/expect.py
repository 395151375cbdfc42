"""What a mode must look like: our own arithmetic, from shapes, world size and the config alone.

The rules are those of DeepSpeed 0.19.8: `runtime/zero/stage_1_and_2.py` (flat partitions),
`runtime/zero/partition_parameters.py` and `stage3.py` (stage 3), `runtime/swap_tensor/` (files).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

#: NCCL's all-gather needs partitions that start on 4 bytes: two elements of 16 bits. DeepSpeed
#: takes two elements in any precision.
ALIGNMENT = 2

#: DeepSpeed swaps no tensor with fewer bytes, whatever `aio.block_size` says.
MIN_SWAP_BYTES = 1024**2

_AIO_ALIGNED_BYTES = 1024


def flat_partitions(
    numels: Sequence[int], world_size: int, *, param_alignment: int = 1
) -> tuple[int, tuple[int, ...]]:
    """Stages 1 and 2: a group is one flat tensor, padded at its end, in `world_size` equal parts.

    Args:
        numels: elements of the group's parameters, in the order in which they lie.
        world_size: data-parallel ranks.
        param_alignment: elements on which each parameter starts; above 1 with
            ``zero_optimization.parameter_alignment``.

    Returns:
        the elements of each part, and for each rank how many of them are padding at the end.
    """
    filled = 0
    for numel in numels:
        filled = math.ceil(filled / param_alignment) * param_alignment + numel
    unit = ALIGNMENT * world_size
    part = math.ceil(filled / unit) * unit // world_size
    return part, tuple(min(part, max(0, part * (rank + 1) - filled)) for rank in range(world_size))


def round_robin(numels: Sequence[int], world_size: int) -> list[int]:
    """The order with ``round_robin_gradients``: every `world_size`-th parameter side by side."""
    return [numel for first in range(world_size) for numel in numels[first::world_size]]


def part(numel: int, world_size: int) -> int:
    """Stage 3: each parameter is padded to a multiple of the ranks and cut in equal parts."""
    return math.ceil(numel / world_size)


def sub_groups(parts: Sequence[int], sub_group_size: int) -> list[list[int]]:
    """Stage 3: a group's parameters, by position, cut where ``sub_group_size`` is reached."""
    if sub_group_size >= sum(parts):
        return [list(range(len(parts)))]
    cut: list[list[int]] = [[]]
    filled = 0
    for position, numel in enumerate(parts):
        cut[-1].append(position)
        filled += numel
        if filled >= sub_group_size:
            cut.append([])
            filled = 0
    return [group for group in cut if group]


def persistent(numels: Mapping[str, int], threshold: int, model_threshold: int) -> set[str]:
    """Stage 3: the parameters that stay whole on every rank, taken in the model's order."""
    kept: dict[str, int] = {}
    for name, numel in numels.items():
        if numel + sum(kept.values()) <= model_threshold and numel <= threshold:
            kept[name] = numel
    return set(kept)


@dataclasses.dataclass(frozen=True)
class Swapping:
    """The rules of the ``aio`` block of a config.

    Attributes:
        block_size: bytes.
        threads: ``intra_op_parallelism``.
    """

    block_size: int = 1024**2
    threads: int = 1

    @property
    def min_bytes(self) -> int:
        """The smallest tensor that is swapped."""
        return max(MIN_SWAP_BYTES, self.block_size)

    def swaps(self, numel: int, element_bytes: int) -> bool:
        """Whether a tensor of so many elements is swapped."""
        return numel * element_bytes >= self.min_bytes

    def file_bytes(self, numel: int, element_bytes: int) -> int:
        """The size of its file: whole units of 1 KiB for each thread."""
        unit = _AIO_ALIGNED_BYTES * self.threads // element_bytes
        return math.ceil(numel / unit) * unit * element_bytes

    def gradient_bytes(self, numel: int, element_bytes: int) -> int:
        """The size of the file of a parameter's gradients, whose odd end stays in memory.

        0 where they are not swapped.
        """
        unit = _AIO_ALIGNED_BYTES * self.threads // element_bytes
        whole = numel // unit * unit
        return whole * element_bytes if self.swaps(whole, element_bytes) else 0


_ADAGRAD, _LION = ("DeepSpeedCPUAdagrad", "Adagrad"), ("DeepSpeedCPULion", "FusedLion")


def optimizer_class(kind: str, params: Mapping[str, Any], *, offloaded: bool) -> str:
    """The class that DeepSpeed makes of ``optimizer.type``; a type it does not know is torch's.

    ``offloaded`` is what the config says, at any stage: DeepSpeed looks no further.
    """
    name = kind.lower()
    if name in ("adam", "adamw"):
        if params.get("torch_adam", False):
            return "AdamW" if decouples(kind, params) else "Adam"
        return "DeepSpeedCPUAdam" if offloaded else "FusedAdam"
    if name in ("adagrad", "lion"):
        on_cpu, fused = _ADAGRAD if name == "adagrad" else _LION
        return on_cpu if offloaded else fused
    return {"lamb": "FusedLamb", "muon": "MuonWithAuxAdam"}.get(name, kind)


def decouples(kind: str, params: Mapping[str, Any]) -> bool:
    """Whether an Adam's weight decay is AdamW's: so it is unless ``adam_w_mode`` is false."""
    return kind.lower() == "adamw" or bool(params.get("adam_w_mode", True))
