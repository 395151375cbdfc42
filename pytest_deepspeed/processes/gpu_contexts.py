"""Which processes hold memory of a GPU, as nvidia-smi has it; nothing where there is no nvidia-smi.

A process that a test has left and that holds a GPU context takes hundreds of megabytes of the
device from whatever runs next. A context goes with its process, so it is looked for where a test
has left a process, or a rank had to be killed: the question takes a tenth of a second and more.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

from pytest_deepspeed.values.size import UNITS, format_size

#: Memory is in MiB, without the unit.
_COMMAND = ("nvidia-smi", "--query-compute-apps=pid,used_gpu_memory")
_FORMAT = "--format=csv,noheader,nounits"

#: Seconds; with no persistence daemon the driver is loaded anew for each question.
_PATIENCE = 10.0

_SETTLE = 0.5  # seconds


def query() -> dict[int, int | None]:
    """Each process that computes on a GPU, with the bytes that it holds on all of them.

    The bytes are ``None`` where the driver does not tell them, as under WSL2. Empty without
    nvidia-smi, or where it fails; in a container it may know processes by other ids.
    """
    try:
        done = subprocess.run(
            [*_COMMAND, _FORMAT],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
            # A rank's own setting says nothing about the machine.
            env={name: v for name, v in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse(done.stdout)


def parse(text: str) -> dict[int, int | None]:
    """What nvidia-smi prints, ``"4021, 518"`` on each line; a line that says more is passed over.

    A process has a line for each GPU that it uses.
    """
    sizes: dict[int, list[int]] = {}
    for line in text.splitlines():
        pid, _, memory = (part.strip() for part in line.partition(","))
        if pid.isdigit():
            of_process = sizes.setdefault(int(pid), [])
            of_process += [int(memory) * UNITS["MiB"]] if memory.isdigit() else []
    return {pid: sum(some) or None for pid, some in sizes.items()}


def may_hold(pid: int) -> bool:
    """Whether a process has a GPU open, without asking the driver."""
    try:
        links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any(Path(link).name.startswith("nvidia") for link in links if link.startswith("/dev/"))


def held(pids: Collection[int]) -> dict[int, str]:
    """What each of some living processes holds: ``"a GPU context with 518.00 MiB"``."""
    if not any(map(may_hold, pids)):
        return {}
    contexts = query()
    return {pid: _described(contexts[pid]) for pid in pids if pid in contexts}


def still_held(pids: Collection[int]) -> list[str]:
    """A sentence for each of these processes, all of which have ended, that a GPU still knows."""
    if not pids:
        return []
    contexts = query()
    if not contexts.keys().isdisjoint(pids):  # the driver may be about to take it back
        time.sleep(_SETTLE)
        contexts = query()
    return [
        f"{_described(contexts[pid])} was left by a rank that was killed (pid {pid}): its process"
        " has ended, and nvidia-smi still lists it"
        for pid in pids
        if pid in contexts
    ]


def _described(size: int | None) -> str:
    return "a GPU context" + (f" with {format_size(size)}" if size is not None else "")
