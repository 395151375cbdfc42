"""What the engagement check judges, as plain data: what one rank's engine is made of."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of the model between two steps.

    Attributes:
        name: in the model.
        shape: of the whole parameter.
        trained: whether it requires a gradient.
        group: the optimizer's parameter group; ``None`` where the optimizer does not know it.
        index: its position in that group.
        dtype: of the weight that the forward pass uses: ``"bfloat16"``.
        resident: elements of the weight itself that this rank holds. At stage 3 the whole number
            where it persists, 0 where it is partitioned.
        partition: elements of this rank's part of it, at stage 3; ``None`` at the others.
        persistent: whether DeepSpeed gathers it for good, at stage 3.
        device: where the weight, or this rank's part of it, lies: ``"cpu"``, ``"cuda"``,
            ``"nvme"``.
    """

    name: str
    shape: tuple[int, ...]
    trained: bool
    group: int | None
    index: int | None
    dtype: str
    resident: int
    partition: int | None
    persistent: bool
    device: str


@dataclasses.dataclass(frozen=True)
class State:
    """An optimizer state of a partition: its key, and what of it is in memory."""

    key: str
    resident: int
    dtype: str
    device: str


@dataclasses.dataclass(frozen=True)
class Partition:
    """The master weights of a parameter group, or at stage 3 of a sub-group, on this rank.

    Attributes:
        group: the optimizer's parameter group.
        numel: elements, padding included.
        padding: elements that DeepSpeed says belong to no parameter.
        resident: elements in memory: 0 while they are swapped out.
        dtype: of the master weights.
        device: ``"nvme"`` while they are swapped out.
        states: of the optimizer.
    """

    group: int
    numel: int
    padding: int
    resident: int
    dtype: str
    device: str
    states: tuple[State, ...]


@dataclasses.dataclass(frozen=True)
class GradientPart:
    """This rank's part of a group's gradients; see `Partition`.

    Attributes:
        numel: elements in memory, padding included.
        swapped: elements that were written to files.
    """

    group: int
    numel: int
    swapped: int
    dtype: str
    device: str


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Where gradients are between the last backward pass of a step and its update.

    Attributes:
        whole: elements in the `grad` of parameters.
        parts: those that DeepSpeed keeps for this rank's update; empty at stage 0.
    """

    whole: int
    parts: tuple[GradientPart, ...]


@dataclasses.dataclass(frozen=True)
class SwapFile:
    """A file below the config's ``nvme_path``.

    Attributes:
        path: relative to it.
        bytes: its size.
        zeros: whether it holds nothing but zeros.
    """

    path: str
    bytes: int
    zeros: bool


@dataclasses.dataclass(frozen=True)
class RankEngagement:
    """What one rank's engine is made of, after some steps.

    Attributes:
        rank: of the data-parallel group.
        world_size: of the data-parallel group.
        accelerator: ``"cpu"``, ``"cuda"``.
        stage: ZeRO stage of the object that runs, not of the config.
        wrapper: its class.
        optimizer: class of the optimizer within.
        decoupled_weight_decay: whether an Adam is AdamW; ``None`` where it does not say.
        groups: of the optimizer, each ``{"lr": (0.001,), "betas": (0.9, 0.999)}``.
        optimizer_steps: by the optimizer's own count.
        global_steps: steps by the engine's count, skipped ones included.
        skipped_steps: those not applied.
        micro_steps: forward and backward passes, by the engine's count.
        accumulation_steps: of the engine.
        clipping: norm to which the object that steps clips; 0 for none.
        scheduler: class of the scheduler of the learning rate; empty for none.
        offload_optimizer: ``"none"``, ``"cpu"`` or ``"nvme"``, by the object that runs.
        offload_param: likewise.
        parameters: of the model, in its order.
        partitions: of master weights.
        gradients: before an update.
        swap_files: of this rank.
        pinned: whether what the optimizer offloads to CPU memory is page-locked; ``None`` where
            nothing is offloaded, and on a CPU, which has no other device to lock it for.
    """

    rank: int
    world_size: int
    accelerator: str
    stage: int
    wrapper: str
    optimizer: str
    decoupled_weight_decay: bool | None
    groups: tuple[dict[str, tuple[float, ...]], ...]
    optimizer_steps: int
    global_steps: int
    skipped_steps: int
    micro_steps: int
    accumulation_steps: int
    clipping: float
    scheduler: str
    offload_optimizer: str
    offload_param: str
    parameters: tuple[Parameter, ...]
    partitions: tuple[Partition, ...]
    gradients: Gradients
    swap_files: tuple[SwapFile, ...]
    pinned: bool | None = None
