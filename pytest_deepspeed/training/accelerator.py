"""The device that the trainings of the checks compute on, and what makes them exact there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device() -> torch.device:
    """This rank's: the current CUDA device where it has one, else the CPU."""
    import torch

    if os.environ.get("DS_ACCELERATOR") == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def be_exact() -> None:
    """Lets CUDA compute alike in each run, and fp32 in fp32; nothing changes on a CPU.

    Call it before the first matrix product of a process. TF32, which torch lets convolutions use
    by default, has a mantissa of 10 bits: parity in fp32 would compare roundings. cuBLAS adds up
    in the same order each time only with a workspace of its own (cuBLAS, "Results
    Reproducibility"), here the small one, so that it hardly shows in a peak of memory. An operation
    that has no deterministic kernel warns.
    """
    import torch

    if device().type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # It would fill what DeepSpeed leaves uninitialised, its padding, with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
