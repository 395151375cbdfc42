"""The Python stack of each rank, with source lines, when a test hangs.

`faulthandler` writes the stack from a signal handler in C, so it works while the rank sleeps, waits
in a collective, or holds the interpreter lock in native code. It gives file, line and function; the
source is added here, by the agent, which has the time.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import signal
import time

from pytest_deepspeed.processes import containment

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')

#: The dump takes at most 3 ms (measured) unless the rank is stopped or blocks the signal.
_PATIENCE = 0.5

#: Frames of pytest, pluggy and the plugin below the test: they say nothing about the hang.
_MACHINERY = re.compile(r"/(_pytest|pluggy)/|/pytest_deepspeed/processes/|^<string>$")


def request(pids_and_files: list[tuple[int, int]]) -> list[str]:
    """Asks each process for its stack.

    Args:
        pids_and_files: process id and the descriptor that its `faulthandler` writes to.

    Returns:
        one text for each, with source lines; where none came, one line that says why.
    """
    for pid, _ in pids_and_files:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + _PATIENCE
    texts = ["" for _ in pids_and_files]
    while time.monotonic() < deadline and not all(_complete(t) for t in texts):
        time.sleep(0.005)
        texts = [_read(fd) for _, fd in pids_and_files]
    return [
        with_source(text) if text else _silence(pid)
        for text, (pid, _) in zip(texts, pids_and_files, strict=True)
    ]


def _read(fd: int) -> str:
    return os.pread(fd, 1 << 20, 0).decode(errors="replace")


def _complete(text: str) -> bool:
    """Whether the bottom frame is there (the agent's ``-c``), or the 100th, the last shown."""
    return '"<string>"' in text or text.endswith("  ...\n")


def of_crash(fd: int) -> str:
    """The stack that `faulthandler` wrote when a signal ended the process; empty if it did not."""
    lines = _read(fd).splitlines()
    return with_source("\n".join(x for x in lines if x and not x.startswith("Extension modules:")))


def _silence(pid: int) -> str:
    state = containment.state_of(pid)
    return (
        f"no stack: the process did not answer SIGUSR1 within {_PATIENCE:g} s"
        f" (state: {state or 'gone'})"
    )


def with_source(text: str) -> str:
    """A `faulthandler` dump, innermost frame first, with each line's source and less machinery."""
    lines: list[str] = []
    hidden = 0
    for line in text.splitlines():
        match = _FRAME.match(line)
        if match is None:
            lines.append(line)
            continue
        if _MACHINERY.search(match["file"]):
            hidden += 1
            continue
        lines.append(f"  {match['file']}:{match['line']} in {match['name']}")
        source = linecache.getline(match["file"], int(match["line"])).strip()
        if source:
            lines.append(f"    {source}")
    if hidden:
        lines.append(f"  ({hidden} frames of pytest and pytest-deepspeed)")
    return "\n".join(lines)
