"""Where a training can be cut so that DeepSpeed's own arithmetic resumes it bit by bit."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

#: Steps before the cut: from the third on the branch of the trap model that is used on alternate
#: steps has been on, off and on.
_CUTS: tuple[int, ...] = (*range(3, 13), 2, 1)


def cut(ds_config: Mapping[str, Any], more: int) -> int:
    """Steps to take before a training is saved, if the ``more`` after it shall be reproducible.

    DeepSpeed's Adam on a CPU multiplies ``beta**t`` up in single precision, step by step, and takes
    the power anew when it finds itself at another step than it counted to, as after a load
    (``csrc/includes/cpu_adam.h``, ``IncrementStep``). The two differ in the last bit at some steps:
    with betas of 0.9 and 0.999 after the second, fifth and eighth, which is 1e-6 of the loss. That
    is rounding, and a cut elsewhere is as good.

    Returns:
        3 for the usual betas; the least bad cut, 3, where none is exact.
    """
    params = (ds_config.get("optimizer") or {}).get("params") or {}
    betas = [float(beta) for beta in params.get("betas", (0.9, 0.999))]
    for at in _CUTS:
        if all(_resumed(beta, at, more) == _uncut(beta, at, more) for beta in betas):
            return at
    return _CUTS[0]


def _uncut(beta: float, at: int, more: int) -> list[float]:
    return _powers(_single(1.0), beta, at + more)[at:]


def _resumed(beta: float, at: int, more: int) -> list[float]:
    first = _single(_single(beta) ** (at + 1))
    return [first, *_powers(first, beta, more - 1)]


def _powers(start: float, beta: float, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        start = _single(start * _single(beta))
        found.append(start)
    return found


def _single(value: float) -> float:
    """A number rounded to single precision."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
