"""Peaks: of tensor bytes during a step, and of the host memory of a rank."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_deepspeed.values.size import UNITS


class TensorPeak:
    """Peak of the bytes of live tensor storages.

    Every operation that PyTorch dispatches is looked at: a storage counts from the operation that
    returns it until it is freed, whoever holds it, autograd included. Not seen: what an operation
    allocates and frees inside one kernel, and what never was a tensor (NCCL, gloo, Python).
    torch's own `torch.distributed._tools.mem_tracker` counts likewise, but must be given every
    module and optimizer beforehand and hooks them all, which ZeRO-3's own hooks do not survive.
    """

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self._known: dict[int, tuple[Any, int]] = {}

    def add(self, tensors: Iterable[Any]) -> None:
        """Counts tensors that exist already."""
        for tensor in tensors:
            self._see(tensor)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Counts what is allocated inside."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        peak = self

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                result = func(*args, **(kwargs or {}))
                for leaf in (*tree_leaves(result), *tree_leaves(args)):
                    if isinstance(leaf, torch.Tensor):
                        peak._see(leaf)
                return result

        with Watch():  # type: ignore[no-untyped-call]
            yield

    def _see(self, tensor: Any) -> None:
        import torch

        if tensor.layout != torch.strided or tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._known.get(key)
        if known is not None and known[1] == size:
            return
        if known is None:
            reference = weakref.ref(storage, functools.partial(self._gone, key))
        else:
            reference = known[0]
        self._known[key] = (reference, size)
        self.now += size - (known[1] if known else 0)
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, _: Any) -> None:
        _, size = self._known.pop(key, (None, 0))
        self.now -= size


class HostPeak:
    """Peak of the memory that this process alone holds, above what it held when this was made.

    A forked rank shares the pages of the agent until it writes to them, so its resident size says
    little: most of it is the agent's. What counts is ``Private_Dirty`` of ``smaps_rollup`` (pages
    that it allocated, and copies of the agent's pages that it wrote to), and, since the kernel
    keeps no peak of that, the fall of the resident size from its peak (``VmHWM``, reset here by
    writing 5 to ``clear_refs``) until now. The sum is exact where pages do not change hands
    between the peak and the reading; see docs/checks-memory.md for what may.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):  # without it the peak is that since the fork
            Path("/proc/self/clear_refs").write_text("5")
        self._before = private_bytes()

    def read(self) -> int:
        """Bytes, at least 0."""
        status = _kilobytes("/proc/self/status")
        fallen = max(0, status["VmHWM"] - status["VmRSS"])
        return max(0, private_bytes() + fallen - self._before)


def private_bytes() -> int:
    """Bytes of pages that this process alone holds and has written to."""
    return _kilobytes("/proc/self/smaps_rollup")["Private_Dirty"]


def _kilobytes(path: str) -> dict[str, int]:
    """The sizes in a file of ``/proc``, in bytes."""
    found = {}
    for line in Path(path).read_text().splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            found[name] = int(rest.split()[0]) * UNITS["KiB"]
    return found
