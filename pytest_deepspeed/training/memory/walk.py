"""The tensors of an engine by what they are for, and the bytes of their storages."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pytest_deepspeed.training.memory.evidence import CATEGORIES, Held, Tensor

#: How many of the largest storages are reported.
_LARGEST = 8

#: Where DeepSpeed 0.19's optimizers keep what they step, by class.
_MASTERS = (
    "single_partition_of_fp32_groups",  # stages 1 and 2
    "fp32_partitioned_groups_flat",  # stage 3
    "fp32_groups_flat",  # stage 0 in 16 bit, fused optimizer
    "fp32_groups",  # stage 0 in 16 bit, any other
)
_GRADIENTS = ("averaged_gradients", "grad_partitions_flat_buffer")
_OFFLOAD_BUFFERS = (
    "param_buffer_of_bit16_for_cpu_offload_groups",
    "temp_grad_buffer_for_cpu_offload",
    "temp_grad_buffer_for_gpu_offload",
    "accumulated_grads_in_cpu",
    "param_groups_fp16_flat_cpu_memory",
)


class Found(NamedTuple):
    """A tensor with its category and name."""

    category: str
    name: str
    tensor: Any


def tensors_of(engine: Any) -> Iterator[Found]:
    """The tensors of an engine, those of the first category of a shared storage first."""
    optimizer = engine.optimizer
    parameters = list(engine.module.named_parameters())
    for name, parameter in parameters:
        yield Found("parameters", name, parameter.data)
        partition = getattr(parameter, "ds_tensor", None)
        # What is on NVMe has a placeholder of two bytes in its place, one for all.
        gone = getattr(getattr(partition, "status", None), "name", "") == "NOT_AVAILABLE"
        category = "swap buffers" if gone else "parameters"
        yield from _named(category, f"{name} (partition)", partition)
    masters = [
        found for attribute in _MASTERS for found in _attribute("masters", optimizer, attribute)
    ]
    yield from masters
    yield from _states(
        engine,
        {id(m.tensor): m.name for m in masters}
        | {id(parameter): name for name, parameter in parameters},
    )
    for name, parameter in parameters:
        yield from _named("gradients", f"{name}.grad", parameter.grad)
        yield from _named("gradients", f"{name}.grad_accum", getattr(parameter, "grad_accum", None))
    for master in masters:
        yield from _named("gradients", f"{master.name}.grad", master.tensor.grad)
    for attribute in _GRADIENTS:
        yield from _attribute("gradients", optimizer, attribute)
    for dtype, bucket in getattr(optimizer, "ipg_buckets", {}).items():
        yield from _named("buckets", f"{dtype} bucket", getattr(bucket, "buffer", None))
    for attribute in _OFFLOAD_BUFFERS:
        yield from _attribute("offload buffers", optimizer, attribute)
    yield from _swap_buffers(optimizer, [parameter for _, parameter in parameters])
    for name, buffer in engine.module.named_buffers():
        yield Found("module buffers", name, buffer)


def _states(engine: Any, names: Mapping[int, str]) -> Iterator[Found]:
    """Optimizer states; a step counter, which has no dimension, is no state of a weight."""
    basic = getattr(engine, "basic_optimizer", None) or engine.optimizer
    for parameter, state in getattr(basic, "state", {}).items():
        for key, value in state.items():
            category = "other" if getattr(value, "dim", lambda: 1)() == 0 else "optimizer"
            yield from _named(category, f"{key} of {names.get(id(parameter), '?')}", value)


def _swap_buffers(optimizer: Any, parameters: list[Any]) -> Iterator[Found]:
    swapper = getattr(optimizer, "optimizer_swapper", None)
    manager = getattr(swapper, "swap_buffer_manager", None)
    yield from _named("swap buffers", "optimizer swap", getattr(manager, "all_buffers", None))
    for key, info in getattr(swapper, "swap_params_info", {}).items():
        unswapped = getattr(info, "unswapped_gradients", None)
        yield from _named("swap buffers", f"unswapped gradients {key}", unswapped)
    for swap in {id(s): s for p in parameters if (s := getattr(p, "nvme_swapper", None))}.values():
        yield from _named("swap buffers", "parameter swap", getattr(swap, "buffers", None))


def _attribute(category: str, owner: Any, attribute: str) -> Iterator[Found]:
    yield from _named(category, attribute, getattr(owner, attribute, None))


def _named(category: str, name: str, value: Any) -> Iterator[Found]:
    """The tensors in a value: itself, or those in lists and dictionaries of it."""
    import torch

    if isinstance(value, torch.Tensor):
        yield Found(category, name, value)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _named(category, f"{name}[{key}]", part)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _named(category, f"{name}[{index}]", part)


class Account:
    """Storages, each counted once, under the category that comes first in `CATEGORIES`."""

    def __init__(self) -> None:
        self._entries: dict[int, _Storage] = {}

    def add(self, found: Found) -> None:
        storage = found.tensor.untyped_storage()
        if found.tensor.device.type == "meta" or not storage.nbytes():
            return
        entry = self._entries.get(storage._cdata)
        if entry is None:
            entry = self._entries[storage._cdata] = _Storage(found, storage)
        entry.add(found.tensor)

    def holds(self, tensor: Any) -> bool:
        return tensor.untyped_storage()._cdata in self._entries

    def held(self) -> dict[str, Held]:
        """Every category to what it holds."""
        result = {}
        for category in CATEGORIES:
            own = [e for e in self._entries.values() if e.category == category]
            devices: dict[str, int] = {}
            for entry in own:
                kind = entry.storage.device.type
                devices[kind] = devices.get(kind, 0) + entry.storage.nbytes()
            used = sum(entry.used() for entry in own)
            result[category] = Held(sum(devices.values()), used, devices)
        return result

    def largest(self) -> tuple[Tensor, ...]:
        """The largest storages, largest first."""
        ordered = sorted(self._entries.values(), key=lambda e: -e.storage.nbytes())
        return tuple(entry.plain() for entry in ordered[:_LARGEST])


class _Storage:
    """A storage, kept alive while it is counted, so that no other takes its address."""

    def __init__(self, found: Found, storage: Any) -> None:
        self.category, self.name = found.category, found.name
        self.dtype = str(found.tensor.dtype).removeprefix("torch.")
        self.storage = storage
        self._spans: set[tuple[int, int]] = set()

    def add(self, tensor: Any) -> None:
        start = tensor.storage_offset() * tensor.element_size()
        self._spans.add((start, start + tensor.numel() * tensor.element_size()))

    def used(self) -> int:
        """Bytes that the tensors cover, overlaps once."""
        covered = reached = 0
        for start, end in sorted(self._spans):
            covered += max(0, end - max(start, reached))
            reached = max(reached, end)
        return covered

    def plain(self) -> Tensor:
        more = len(self._spans) - 1
        name = f"{self.name} and {more} more" if more else self.name
        kind = self.storage.device.type
        return Tensor(name, self.category, self.dtype, kind, self.storage.nbytes())


def account_of(engine: Any) -> Account:
    """The storages of an engine."""
    account = Account()
    for found in tensors_of(engine):
        account.add(found)
    return account


def live_tensors() -> list[Any]:
    """The tensors that Python objects hold in this process, gradients of leaves included.

    Not those that only C++ holds, nor those that were frozen (`gc.freeze`) before the fork.
    """
    import torch

    found = []
    for thing in gc.get_objects():
        kind = type(thing)
        if not issubclass(kind, torch.Tensor) or kind.__module__.startswith("torch._subclasses"):
            continue
        found.append(thing)
        if thing.is_leaf and thing.grad is not None:
            found.append(thing.grad)
    return [t for t in found if t.device.type != "meta" and t.layout == torch.strided]
