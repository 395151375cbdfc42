"""Offload to CPU memory and NVMe against what the config asks, for one rank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePath

from pytest_deepspeed.training.engagement import expect
from pytest_deepspeed.training.engagement.asked import Asked
from pytest_deepspeed.training.engagement.evidence import (
    Parameter,
    Partition,
    RankEngagement,
    SwapFile,
)
from pytest_deepspeed.training.engagement.problem import Problem
from pytest_deepspeed.values.size import format_size

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PLACES = {"none": "on the accelerator", "cpu": "in CPU memory", "nvme": "on NVMe"}


def problems(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    """What of this rank is not where the config's offload blocks say."""
    agrees = True
    for name, what, asked, found in (
        ("offload_optimizer", "optimizer states", wanted.offload_optimizer, rank.offload_optimizer),
        ("offload_param", "parameters", wanted.offload_param, rank.offload_param),
    ):
        if asked != found:
            agrees = False
            yield Problem(
                name,
                f"zero_optimization.{name}.device is {asked!r}, but {rank.wrapper} at stage"
                f" {rank.stage} keeps the {what} {_PLACES[found]}: DeepSpeed ignored it. Use a"
                f' stage that has it (3 has all), or write "device": "{found}", which is what this'
                " config does.",
            )
    if not agrees:
        return
    if wanted.offload_optimizer == "nvme":
        yield from _swapped_states(wanted, rank)
    if wanted.offload_param == "nvme":
        yield from _swapped_parameters(wanted, rank)
    yield from _empty_files(rank)
    yield from _devices(wanted, rank)
    if None not in (rank.pinned, wanted.pin_memory) and rank.pinned != wanted.pin_memory:
        yield Problem(
            "pin_memory",
            f"offload_optimizer.pin_memory is {str(wanted.pin_memory).lower()}, but what is"
            f" offloaded is{'' if rank.pinned else ' not'} page-locked: copies between it and the"
            f" GPU {'take memory that cannot be swapped' if rank.pinned else 'wait for the CPU'}."
            " Look at the limit of locked memory (ulimit -l) and at DeepSpeed's log.",
        )


def _swapped_states(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    size = _BYTES[wanted.master_dtype]
    swapping = wanted.swapping
    due = [p for p in rank.partitions if swapping.swaps(p.numel, size)]
    if not due:
        largest = max((p.numel for p in rank.partitions), default=0)
        yield _too_small("offload_optimizer", "partition of a group", largest, size, wanted)
        return
    kept = [p for p in due if p.resident]
    if kept:
        yield Problem(
            "offload_optimizer",
            f"the master weights of parameter group {kept[0].group},"
            f" {format_size(kept[0].numel * size)}, should be swapped out between steps, but are"
            " in memory.",
        )
    expected = [swapping.file_bytes(p.numel, size) for p in due for _ in range(1 + len(p.states))]
    files = [f for f in rank.swap_files if "optimizer" in PurePath(f.path).parts]
    of_states = [f for f in files if "_gradient_" not in f.path]
    yield from _sizes("master weights and optimizer states", expected, of_states)
    yield from _sizes(
        "gradients",
        _gradient_bytes(wanted, rank, due),
        [f for f in files if "_gradient_" in f.path],
    )


def _gradient_bytes(wanted: Asked, rank: RankEngagement, due: list[Partition]) -> list[int]:
    groups = {partition.group for partition in due}
    sizes = []
    for parameter in rank.parameters:
        numel = math.prod(parameter.shape)
        part = expect.part(numel, rank.world_size)
        if parameter.group in groups and part * rank.rank < numel:
            sizes.append(wanted.swapping.gradient_bytes(part, _BYTES[wanted.master_dtype]))
    return [size for size in sizes if size]


def _swapped_parameters(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    size = _BYTES[wanted.dtype]
    swapping = wanted.swapping
    due = [p for p in rank.parameters if swapping.swaps(_part(p, rank), size)]
    if not due:
        largest = max((_part(p, rank) for p in rank.parameters), default=0)
        yield _too_small("offload_param", "part of a parameter", largest, size, wanted)
        return
    kept = [p for p in due if p.device != "nvme"]
    if kept:
        yield Problem(
            "offload_param",
            f"{kept[0].name} should be on NVMe between steps, but is in memory"
            f" ({kept[0].device}): DeepSpeed keeps the first offload_param.max_in_cpu elements,"
            " 1e9 if it is not set, in CPU memory. Set it to 0.",
            kept[0].name,
        )
    yield from _sizes(
        "parameters",
        [swapping.file_bytes(_part(p, rank), size) for p in due],
        [f for f in rank.swap_files if f.path.endswith("_param.tensor.swp")],
    )


def _part(parameter: Parameter, rank: RankEngagement) -> int:
    return expect.part(math.prod(parameter.shape), rank.world_size)


def _too_small(block: str, what: str, largest: int, size: int, wanted: Asked) -> Problem:
    limit = wanted.swapping.min_bytes
    narrower = limit > expect.MIN_SWAP_BYTES
    return Problem(
        block,
        f"{block}.device is 'nvme', but nothing is swapped: the largest {what} has {largest:,}"
        f" elements on this rank, {format_size(largest * size)}, and DeepSpeed swaps from"
        f" {format_size(limit)} on. Widen the model to {limit // size:,} elements a rank"
        + (", or lower aio.block_size (1 MiB at least)." if narrower else ", or use fewer ranks."),
    )


def _sizes(what: str, expected: list[int], files: list[SwapFile]) -> Iterator[Problem]:
    found = sorted(file.bytes for file in files)
    if found != sorted(expected):
        yield Problem(
            "swap_files",
            f"swap files of {what} should have {_listed(sorted(expected))}, but have"
            f" {_listed(found)}.",
        )


def _listed(sizes: list[int]) -> str:
    return f"{', '.join(f'{size:,}' for size in sizes)} bytes" if sizes else "no file"


def _empty_files(rank: RankEngagement) -> Iterator[Problem]:
    empty = [f.path for f in rank.swap_files if f.zeros]
    if empty:
        yield Problem(
            "swap_files",
            f"{len(empty)} of {len(rank.swap_files)} swap files hold nothing but zeros after"
            f" training, {empty[0]} first: what was swapped out was never written.",
        )


def _devices(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    """Devices of tensors in memory. On a CPU, where there is one device, all are "cpu"."""
    update = "cpu" if wanted.offload_optimizer != "none" else rank.accelerator
    for partition in rank.partitions:
        for what, device in (
            ("master weights", partition.device),
            *((state.key, state.device) for state in partition.states),
        ):
            if device not in (update, "nvme") or (device == "nvme" and partition.resident):
                yield _misplaced(f"{what} of parameter group {partition.group}", update, device)
    for part in rank.gradients.parts:
        if part.numel and part.device != update:
            yield _misplaced(f"gradients of parameter group {part.group}", update, part.device)
    compute = "cpu" if wanted.offload_param != "none" else rank.accelerator
    for parameter in rank.parameters:
        if parameter.device not in (compute, "nvme") and not parameter.persistent:
            yield _misplaced(parameter.name, compute, parameter.device)


def _misplaced(what: str, expected: str, found: str) -> Problem:
    return Problem("devices", f"{what} should be on {expected}, but are on {found}.")
