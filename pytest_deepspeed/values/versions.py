"""Which releases work together, and what depends on them: the one place that knows.

`LOWEST` is what ``pyproject.toml`` asks for. `TESTED` are the sets that ``make test-versions`` and
``make test`` have run; each is pinned in ``tools/versions``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Version = tuple[int, ...]

#: The oldest release that is supported of each.
LOWEST = {
    "python": "3.11",
    "torch": "2.11",
    "torchvision": "0.26",
    "deepspeed": "0.19.3",
    "pytorch-lightning": "2.6",
    "pytest": "8.4",
    "pytest-xdist": "3.6",
}

#: Sets that have run, by the name of their lane.
TESTED = {
    "oldest": {
        "python": "3.11",
        "torch": "2.13.0",
        "torchvision": "0.28.0",
        "deepspeed": "0.19.3",
        "pytorch-lightning": "2.6.0",
        "pytest": "8.4.0",
        "pytest-xdist": "3.6.1",
    },
    "newest": {
        "python": "3.11",
        "torch": "2.13.0",
        "torchvision": "0.28.0",
        "deepspeed": "0.19.8",
        "pytorch-lightning": "2.6.6",
        "pytest": "9.2.0",
        "pytest-xdist": "3.8.0",
    },
}

#: The first DeepSpeed whose import leaves CUDA alone.
LEAVES_CUDA_ALONE = "0.19.3"


def release(version: str) -> Version:
    """The numbers of a version: ``"2.13.0+cpu"`` is ``(2, 13, 0)``, and so is ``"2.13"``."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(n) for n in found[0].split(".")] if found else []
    return tuple([*numbers, 0, 0, 0][: max(3, len(numbers))])


def too_old(versions: Mapping[str, str]) -> dict[str, str]:
    """Of these packages those that are older than supported, with the oldest that is."""
    return {
        name: lowest
        for name, lowest in LOWEST.items()
        if name in versions and release(versions[name]) < release(lowest)
    }


def untested(versions: Mapping[str, str]) -> dict[str, str]:
    """Of these packages those outside of what has been tested, with the releases that were.

    A release between two that were tested counts as tested, as do patches of Python and of torch:
    their second number is what changes behaviour.
    """
    found = {}
    for name, version in versions.items():
        tested = sorted({lane[name] for lane in TESTED.values()}, key=release)
        digits = 2 if name in ("python", "torch", "torchvision") else 3
        first, last = (release(each)[:digits] for each in (tested[0], tested[-1]))
        if not first <= release(version)[:digits] <= last:
            found[name] = " to ".join(tested)
    return found


def why_cuda_after_import(deepspeed: str) -> str:
    """Why CUDA is initialised once this DeepSpeed is imported; empty where that is not its doing.

    Its ranks are spawned then, since no fork takes a CUDA context over.
    """
    if release(deepspeed) >= release(LEAVES_CUDA_ALONE):
        return ""
    return f"importing DeepSpeed {deepspeed} ({LEAVES_CUDA_ALONE} and newer leave CUDA alone)"
