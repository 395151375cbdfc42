"""The directory that a config swaps to."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def asked(ds_config: Mapping[str, Any]) -> bool:
    """Whether a config offloads to NVMe, at whichever stage."""
    return bool(_blocks(ds_config))


def paths(ds_config: Mapping[str, Any]) -> list[str]:
    """The directories that a config offloads to."""
    return sorted({str(block["nvme_path"]) for block in _blocks(ds_config) if "nvme_path" in block})


def swaps(ds_config: Mapping[str, Any]) -> bool:
    """Whether DeepSpeed writes to NVMe under a config: at stage 3 alone."""
    zero = ds_config.get("zero_optimization")
    return isinstance(zero, Mapping) and zero.get("stage") == 3 and any(_blocks(ds_config))


def lacks_path(ds_config: Mapping[str, Any]) -> bool:
    """Whether a config offloads to NVMe and does not say where."""
    return any("nvme_path" not in block for block in _blocks(ds_config))


def with_path(ds_config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A copy of a config in which each NVMe offload that has no directory has this one."""
    config: dict[str, Any] = copy.deepcopy(dict(ds_config))
    for block in _blocks(config):
        block.setdefault("nvme_path", str(path))
    return config


def swapping_to(ds_config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A copy of a config with all that it offloads to NVMe in another directory."""
    config: dict[str, Any] = copy.deepcopy(dict(ds_config))
    for block in _blocks(config):
        block["nvme_path"] = str(path)
    return config


def folder_of_test(base: Path, tmp_path: Path) -> Path:
    """A directory below `base` for one test: the same on all ranks, and of no other test.

    Args:
        tmp_path: the test's own, which all its ranks share.
    """
    key = hashlib.sha256(f"{socket.gethostname()}:{tmp_path}".encode()).hexdigest()[:16]
    path = base / f"pytest-deepspeed-{key}"
    path.mkdir(exist_ok=True)
    return path


def remove_rank(path: Path, rank: int) -> None:
    """Removes what DeepSpeed left of one rank, and then what is empty.

    Other ranks may still train: theirs stays, and whoever is last removes the directory.
    """
    # Not by `rglob`, which fails at a folder that another rank has just removed.
    for folder, folders, _ in os.walk(path):
        if f"rank{rank}" in folders:
            shutil.rmtree(Path(folder, f"rank{rank}"), ignore_errors=True)
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def _blocks(ds_config: Mapping[str, Any]) -> list[dict[str, Any]]:
    zero = ds_config.get("zero_optimization")
    if not isinstance(zero, Mapping):
        return []
    blocks = (zero.get("offload_optimizer"), zero.get("offload_param"))
    return [block for block in blocks if isinstance(block, dict) and block.get("device") == "nvme"]
