"""What was measured of the memory of a training, as plain data. All sizes are bytes."""

from __future__ import annotations

import dataclasses

#: What the tensors of an engine are for; a storage that serves two of them is counted as the first.
CATEGORIES = (
    "parameters",
    "masters",
    "optimizer",
    "gradients",
    "buckets",
    "offload buffers",
    "swap buffers",
    "module buffers",
    "other",
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """All that the ZeRO arithmetic needs, from the plain model and the config alone.

    Attributes:
        stage: ZeRO stage.
        world_size: data-parallel ranks.
        itemsize: bytes of a compute weight, 4 for fp32 and 2 for bf16 and fp16.
        groups: elements of each trainable parameter, for each group of the optimizer.
        frozen: elements of each parameter that is not trained.
        order: elements of all parameters in the order of ``named_parameters()``.
        states: full-size fp32 tensors that the optimizer keeps of each weight (Adam: 2), or
            ``None`` where this arithmetic does not know the optimizer.
        offload_optimizer, offload_param: ``""``, ``"cpu"`` or ``"nvme"``, as it takes effect.
        partly_offloaded: whether ``ratio`` leaves some of the optimizer's states on the GPU.
        parameters_in_cpu: whether trained parameters that could be on NVMe stay in memory after
            all, as they do unless ``max_in_cpu`` is set; none of them does otherwise.
        persistence_threshold: ZeRO-3 keeps parameters of at most as many elements whole.
        persistence_total: and at most as many elements of them.
        sub_group_size: elements of a partition after which ZeRO-3 begins a new sub-group.
        bucket_size: elements of the ZeRO-3 gradient bucket.
        swap_from: bytes from which on a partition is swapped to NVMe.
        swap_alignment: swap files are a multiple of as many bytes.
        unknown: what of the config this arithmetic does not know; empty where it knows all.
    """

    stage: int
    world_size: int
    itemsize: int
    groups: tuple[tuple[int, ...], ...]
    frozen: tuple[int, ...]
    order: tuple[int, ...]
    states: int | None
    offload_optimizer: str = ""
    offload_param: str = ""
    partly_offloaded: bool = False
    parameters_in_cpu: bool = True
    persistence_threshold: int = 100_000
    persistence_total: int = 2**63 - 1
    sub_group_size: int = 1_000_000_000
    bucket_size: int = 500_000_000
    swap_from: int = 2**20
    swap_alignment: int = 1024
    unknown: str = ""


@dataclasses.dataclass(frozen=True)
class Held:
    """What one category holds.

    Attributes:
        bytes: of its storages, each counted once and whole.
        used: bytes of these storages that its tensors cover.
        devices: ``bytes`` by device type.
    """

    bytes: int
    used: int
    devices: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One storage: the name of its first tensor, its category, type, device and bytes."""

    name: str
    category: str
    dtype: str
    device: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class RankMemory:
    """What one rank held.

    Attributes:
        rank: global rank.
        held: category to what it holds after the last step, gradients just before it.
        largest: the largest storages, largest first.
        looked: whether gradients were looked at before an optimizer step.
        tensors: peak of tensor bytes during the metered step; ``None`` if none was metered.
        host: peak of host memory above what the rank had when the meter started.
        device, device_reserved: peaks that CUDA's caching allocator allocated and reserved since
            the meter started; ``None`` without CUDA.
        nvme: file name to bytes, of the swap files of this rank while the engine lives.
        estimate_host, estimate_device: what DeepSpeed's own estimator says of the host of all
            ranks and of the device of one; ``None`` for stages 0 and 1, which have none.
    """

    rank: int
    held: dict[str, Held]
    largest: tuple[Tensor, ...]
    looked: bool
    tensors: int | None
    host: int
    device: int | None
    device_reserved: int | None
    nvme: dict[str, int]
    estimate_host: int | None
    estimate_device: int | None


@dataclasses.dataclass(frozen=True)
class MemoryEvidence:
    """The layout that all ranks share, and what each held."""

    layout: Layout
    ranks: tuple[RankMemory, ...]
