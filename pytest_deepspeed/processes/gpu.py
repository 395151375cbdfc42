"""A GPU in a rank: taken before the test, synchronised after it, given back; and who touched CUDA.

A rank has its own CUDA context, made after the fork: a context that was forked is broken. Nothing
here is called where ranks run on the CPU.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.processes import devices
from pytest_deepspeed.values import versions

#: Of DeepSpeed's accelerator: all by which it makes a device of ``LOCAL_RANK`` (runtime/engine.py
#: `_set_distributed_vars`, runtime/zero/partition_parameters.py `Init`, runtime/zero/utils.py,
#: comm/torch.py `init_process_group`; DeepSpeed 0.19.8).
_BY_INDEX = ("set_device", "device_name", "device")

#: The driver's device file of unified memory, which `cuInit` opens and NVML does not.
_OPENED_BY_CUDA = "/dev/nvidia-uvm"


def take(local_rank: int, local_world_size: int) -> None:
    """Makes a GPU the current device of this rank, and its context.

    ``LOCAL_RANK`` stays what it is under torchrun, the rank's number on its node, since DeepSpeed
    asks it for more than a device: at ZeRO-3 who loads a checkpoint after whom
    (runtime/zero/stage3.py `load_state_dict`). Where ranks share GPUs, DeepSpeed's accelerator
    takes it modulo their number.

    Raises:
        RuntimeError: torch finds no GPU.
    """
    import torch

    device = devices.of_rank("cuda", local_rank)
    torch.cuda.set_device(device)
    torch.cuda.init()  # type: ignore[no-untyped-call]
    gpus = torch.cuda.device_count()
    if local_world_size > gpus and "deepspeed" in sys.modules:
        from deepspeed.accelerator import get_accelerator

        share(get_accelerator(), gpus)


def share(accelerator: Any, gpus: int) -> None:
    """Lets DeepSpeed's accelerator take an index beyond the number of GPUs for one that is shared.

    Without it ``LOCAL_RANK`` 1 on one GPU is an "invalid device ordinal".
    """

    def of_index(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def by_index(device_index: Any = None) -> Any:
            if str(device_index).isdigit():  # DeepSpeed passes the variable's text too
                device_index = devices.gpu_of(int(device_index), gpus)
            return real(device_index)

        return by_index

    for name in _BY_INDEX:
        setattr(accelerator, name, of_index(getattr(accelerator, name)))


class Synchronised:
    """A plugin of a rank: what a test has begun on its GPU belongs to the test.

    Kernels run on after the body that began them returned. A failed assertion of one would be lost
    with the process, and a collective whose rank ended would hang its peers.
    """

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Waits for the GPU where the body passed; an error there is the body's."""
        import torch

        result = yield
        torch.cuda.synchronize()
        return result


def leave() -> None:
    """Ends NCCL's part of a rank whose test has not failed.

    NCCL wants it before a process ends: its peers read this one's buffers until then (PyTorch's
    notes on `torch.distributed`, "Shutdown"). Not after a failure, since a peer may be gone.
    """
    import torch
    import torch.distributed as dist

    torch.cuda.synchronize()
    if dist.is_initialized() and "nccl" in dist.get_backend():
        dist.destroy_process_group()


class _Initialised:
    """Who made this process's CUDA context: the line of the code that asked for it."""

    where = ""


def watch() -> None:
    """Remembers, in an agent, the line of user code that initialises CUDA, for `touched`."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        deepspeed = sys.modules.get("deepspeed")
        known = versions.why_cuda_after_import(deepspeed.__version__) if deepspeed else ""
        _Initialised.where = known or "importing torch, DeepSpeed or what they import"
        return
    real = torch.cuda._lazy_init

    def lazy_init() -> None:
        real()  # type: ignore[no-untyped-call]
        torch.cuda._lazy_init = real
        if not _Initialised.where:
            _Initialised.where = _culprit(traceback.extract_stack())

    torch.cuda._lazy_init = lazy_init


def _culprit(stack: traceback.StackSummary) -> str:
    """The innermost line that is no library's: ``tests/conftest.py:3: torch.zeros(...)``."""
    own = f"{Path(__file__).parents[1]}{os.sep}"
    for frame in reversed(stack):
        library = "/site-packages/" in frame.filename or frame.filename.startswith((own, "<"))
        if not library:
            line = f": {frame.line}" if frame.line else ""
            return f"{os.path.relpath(frame.filename)}:{frame.lineno}{line}"
    return ""


def touched() -> str:
    """Who has initialised CUDA in this process, so that it must not be forked; empty: nobody."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        who = _Initialised.where or "importing a conftest or test module"
        return f"{who} has initialised CUDA"
    if os.environ.get("DS_ACCELERATOR") == "cuda" and _opened(_OPENED_BY_CUDA):
        return (
            "importing a conftest or test module has initialised CUDA without torch"
            f" ({_OPENED_BY_CUDA} is open)"
        )
    return ""


def _opened(path: str) -> bool:
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == path:
                return True
        except OSError:  # the descriptor of the listing itself
            continue
    return False
