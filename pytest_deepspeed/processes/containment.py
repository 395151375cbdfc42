"""Nothing is left: parent-death signals, orphans, shared memory.

A rank has its own session (`setsid`) and dies with its agent (`PR_SET_PDEATHSIG`). The agent is the
subreaper of everything that ranks start, so that a child which called `setsid` and outlived its
rank becomes the agent's child and is found in ``/proc/self/task/*/children``.
"""

from __future__ import annotations

import _posixshmem  # type: ignore[import-not-found]
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)

_SHM = Path("/dev/shm")

#: Seconds that an orphan has to end by itself: `multiprocessing`'s resource tracker, for one, ends
#: when its pipe closes.
_SETTLE = 0.5


def die_with_parent(parent: int, with_signal: int = signal.SIGKILL) -> None:
    """Ends this process when the thread that forked it ends; at once if ``parent`` is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def threads() -> int:
    """Threads of this process, native ones included (`threading` does not see those)."""
    return len(os.listdir("/proc/self/task"))


def children(pid: int | str = "self") -> list[int]:
    """Direct children of a process, an empty list if it is gone."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text()
            found.extend(map(int, text.split()))
    except OSError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """All processes under ``pid``, parents before children."""
    found: list[int] = []
    queue = children(pid)
    while queue:
        child = queue.pop()
        found.append(child)
        queue.extend(children(child))
    return found


def command_of(pid: int) -> str:
    """The command line of a process, for a message."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
    text = raw.replace(b"\0", b" ").decode(errors="replace").strip() or comm
    return text if len(text) <= 80 else text[:77] + "..."


def state_of(pid: int) -> str:
    """The kernel's state letter and word, such as ``T (stopped)``; empty if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:"):
                return line.removeprefix("State:").strip()
    except OSError:
        pass
    return ""


def cpu_ticks(pid: int) -> int:
    """CPU time of a process and its threads, in clock ticks of 10 ms; 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def started_at(pid: int) -> int:
    """When a process was started, in clock ticks since the machine was; 0 if it is gone.

    With its id it is the name of a process for good: ids are given again.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields 3 and on of proc(5)'s ``stat``."""
    try:
        # After the name, which may hold anything but ends with the last bracket.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def kill(pid: int) -> None:
    """SIGKILL to a process, and to its group if it leads one."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, signal.SIGKILL)


def kill_marked(mark: str) -> None:
    """SIGKILL to every process with ``mark`` (``NAME=value``) in its environment.

    So what an agent's ranks left is found when the agent is no more there to adopt it.
    """
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                kill(int(pid))


def kill_strays(
    keep: set[int], look: Callable[[list[int]], None] = lambda _: None
) -> list[tuple[int, str]]:
    """Kills and reaps every descendant of this process that is not in ``keep``.

    Args:
        keep: children to leave alone.
        look: called with those that still run, before the first is killed.

    Returns:
        ``(pid, command)`` of those that were still running. A zombie is only reaped.
    """
    left: list[tuple[int, str]] = []
    settled = time.monotonic() + _SETTLE
    while time.monotonic() < settled and any(map(_lives, set(children()) - keep)):
        time.sleep(0.005)
    if found := [pid for pid in children() if pid not in keep]:
        look([p for pid in found for p in [*descendants(pid), pid] if _lives(p)])
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        strays = [pid for pid in children() if pid not in keep]
        if not strays:
            break
        for pid in strays:
            for victim in [*descendants(pid), pid]:
                if _lives(victim) and not _named(left, victim):
                    left.append((victim, command_of(victim)))
                kill(victim)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return left


def _lives(pid: int) -> bool:
    return not state_of(pid).startswith(("Z", "X"))


def _named(left: list[tuple[int, str]], pid: int) -> bool:
    return any(pid == known for known, _ in left)


def shared_memory() -> dict[str, int]:
    """Names in ``/dev/shm`` that belong to this user, with their size in bytes."""
    found: dict[str, int] = {}
    try:
        with os.scandir(_SHM) as entries:
            for entry in entries:
                try:
                    stat = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.st_uid == os.getuid() and entry.is_file(follow_symlinks=False):
                    found[entry.name] = stat.st_size
    except OSError:
        pass
    return found


def unlink_left_shared_memory(
    before: dict[str, int], ours: Callable[[str], bool]
) -> list[tuple[str, int]]:
    """Unlinks segments that are new since ``before``, ours, and that no process maps or holds.

    Args:
        before: what `shared_memory` gave when the world began.
        ours: whether a name belongs to the world that has ended.

    Returns:
        ``(name, bytes)`` of each.
    """
    new = {n: size for n, size in shared_memory().items() if n not in before and ours(n)}
    if not new:
        return []
    used = _shared_memory_in_use()
    gone = [(name, size) for name, size in new.items() if name not in used]
    for name, _ in gone:
        (_SHM / name).unlink(missing_ok=True)
    return gone


def record_shared_memory(fd: int) -> None:
    """In a rank: writes to ``fd`` the name of each segment that it or its children open.

    What native code opens is not seen; torch and DeepSpeed name theirs after process id and port.
    """
    prefix = f"{_SHM}/"

    def opened(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and args[0].startswith(prefix):
            os.write(fd, f"{args[0].removeprefix(prefix)}\n".encode())

    sys.addaudithook(opened)
    real = _posixshmem.shm_open

    def shm_open(path: str, *args: Any, **kwargs: Any) -> int:
        os.write(fd, f"{path.lstrip('/')}\n".encode())
        return int(real(path, *args, **kwargs))

    _posixshmem.shm_open = shm_open


def _shared_memory_in_use() -> set[str]:
    prefix = f"{_SHM}/"
    used: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                if (at := line.find(prefix)) >= 0:
                    used.add(line[at + len(prefix) :])
            for fd in os.scandir(f"/proc/{pid}/fd"):
                target = os.readlink(fd.path)
                if target.startswith(prefix):
                    used.add(target.removeprefix(prefix))
        except OSError:
            continue
    return used
