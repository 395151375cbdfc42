"""The ZeRO arithmetic: bytes that each category holds on a rank, from shapes and config alone.

Every rank holds the same: partitions are padded to equal sizes. Written from the paper (Rajbhandari
et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020: 2 + 2 + K bytes
for each parameter, sharded by stage) with the padding of DeepSpeed 0.19: a flat group of stages 1
and 2 is a multiple of 2 elements for each rank, a parameter of stage 3 one of the world size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from pytest_deepspeed.training.memory.evidence import Layout

_FP32 = 4


def expected(layout: Layout) -> dict[str, int]:
    """Category to the bytes that a rank must hold, for the categories where that is known.

    ``"nvme"`` is what the swap files of the optimizer hold: masters and states, without gradients.
    """
    if layout.unknown:
        return {}
    masters = _FP32 * sum(_in_memory(layout)) if _has_masters(layout) else 0
    found = {
        "parameters": _parameters(layout),
        "masters": masters,
        "gradients": _gradients(layout),
    }
    if layout.states is not None:
        found["optimizer"] = layout.states * _FP32 * sum(_in_memory(layout))
        each = (_round_up(_FP32 * numel, layout.swap_alignment) for numel in _swapped(layout))
        found["nvme"] = (1 + layout.states) * sum(each)
    if layout.stage == 3:
        found["buckets"] = layout.bucket_size * layout.itemsize
    return found


def on_device(layout: Layout) -> dict[str, int]:
    """Likewise, of that the bytes on the GPU of a rank that computes on one.

    What is offloaded is not there: of the weights only those that ZeRO-3 keeps whole, of master
    weights and states nothing.
    """
    found = {
        name: size
        for name, size in expected(layout).items()
        if name in ("parameters", "masters", "optimizer")
    }
    if layout.offload_optimizer:
        found |= {name: 0 for name in ("masters", "optimizer") if name in found}
    if layout.partly_offloaded:
        found = {name: size for name, size in found.items() if name == "parameters"}
    if found and layout.offload_param:
        shares = (_share(n, layout) for n in persistent(layout))
        found["parameters"] = sum(shares) * layout.world_size * layout.itemsize
    return found


def partitions(layout: Layout) -> Iterator[int]:
    """Elements of each flat tensor that this rank's optimizer steps, padding included."""
    for group in layout.groups:
        if layout.stage == 0:
            yield sum(group)
        elif layout.stage < 3:
            yield _round_up(sum(group), 2 * layout.world_size) // layout.world_size
        else:
            yield from _sub_groups([_share(n, layout) for n in group], layout.sub_group_size)


def persistent(layout: Layout) -> list[int]:
    """Elements of each parameter that ZeRO-3 keeps whole on every rank."""
    kept: list[int] = []
    for numel in layout.order:
        fits = sum(kept) + numel <= layout.persistence_total
        if fits and numel <= layout.persistence_threshold:
            kept.append(numel)
    return kept


def _parameters(layout: Layout) -> int:
    trained = sum(itertools.chain.from_iterable(layout.groups))
    if layout.stage == 0:
        elements = trained + sum(layout.frozen)
    elif layout.stage < 3:
        elements = sum(partitions(layout)) * layout.world_size + sum(layout.frozen)
    else:
        trained_swap = layout.offload_param == "nvme" and not layout.parameters_in_cpu
        elements = sum(
            _stays(_share(n, layout), layout, trained_swap)
            for n in itertools.chain.from_iterable(layout.groups)
        )
        # No flat buffer takes in what is not trained: it stays on NVMe whatever max_in_cpu says.
        frozen_swap = layout.offload_param == "nvme"
        elements += sum(_stays(_share(n, layout), layout, frozen_swap) for n in layout.frozen)
        elements += sum(_share(n, layout) * layout.world_size for n in persistent(layout))
    return elements * layout.itemsize


def _stays(share: int, layout: Layout, swapped: bool) -> int:
    """Elements of a partition that are in memory between uses."""
    return 0 if swapped and share * layout.itemsize >= layout.swap_from else share


def _gradients(layout: Layout) -> int:
    """Just before the optimizer steps, in the dtype of the weights; fp32 ones where it offloads."""
    elements = sum(partitions(layout))
    offloaded = _FP32 * sum(_in_memory(layout)) if layout.offload_optimizer else 0
    if layout.offload_optimizer and layout.stage < 3:
        return offloaded
    return elements * layout.itemsize + offloaded


def _has_masters(layout: Layout) -> bool:
    """Whether the optimizer steps a copy of the weights, as DeepSpeed's do of fp32 ones too.

    Stage 3 means to do without that copy (``stage3.py``, ``_create_fp32_partitions``), but asks
    whether a `torch.device` equals a text, which is never so.
    """
    return layout.stage > 0 or layout.itemsize < _FP32


def _swapped(layout: Layout) -> list[int]:
    if layout.offload_optimizer != "nvme":
        return []
    return [n for n in partitions(layout) if n * _FP32 >= layout.swap_from]


def _in_memory(layout: Layout) -> list[int]:
    if layout.offload_optimizer != "nvme":
        return list(partitions(layout))
    return [n for n in partitions(layout) if n * _FP32 < layout.swap_from]


def _share(numel: int, layout: Layout) -> int:
    return _round_up(numel, layout.world_size) // layout.world_size


def _sub_groups(shares: Iterable[int], size: int) -> Iterator[int]:
    """A sub-group ends with the parameter that fills it."""
    filled = 0
    for share in shares:
        filled += share
        if filled >= size:
            yield filled
            filled = 0
    if filled:
        yield filled


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
