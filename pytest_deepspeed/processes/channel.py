"""Line-framed JSON over a pair of pipes.

One frame is one JSON object on one line. A reader acts on a complete line, never on end of file:
that arrives only after a process's memory is torn down, and a grandchild that inherited the pipe
holds it open (measured: 11 to 20 ms, and 5 s with persistent DataLoader workers).
"""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections.abc import Iterator
from typing import Any

Frame = dict[str, Any]

_CHUNK = 1 << 16

#: How each frame begins.
_START = b'{"type": '


class FrameReader:
    """Frames from a file descriptor.

    Args:
        fd: the descriptor.
        prologue: whether lines that are no frames may come before the first one: a site's
            TaskProlog can print to a task's stdout (slurm.conf(5)).

    Attributes:
        fd: the descriptor, so that a selector can wait for it.
        closed: whether the other side is gone.
    """

    def __init__(self, fd: int, *, prologue: bool = False) -> None:
        self.fd = fd
        self.closed = False
        self._prologue = prologue
        self._parts: list[bytes] = []

    def fileno(self) -> int:
        return self.fd

    def read(self) -> Iterator[Frame]:
        """Reads once and yields the frames that are complete by then; blocks if nothing is there.

        Raises:
            ValueError: a line is no JSON object; the stream cannot be trusted any more.
        """
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._parts.append(line)
            whole = b"".join(self._parts)
            self._parts.clear()
            if self._prologue and not whole.startswith(_START):
                continue
            self._prologue = False
            yield parse(whole)
        if rest:
            self._parts.append(rest)

    def drain(self) -> Iterator[Frame]:
        """Yields what is there already, without waiting for more."""
        os.set_blocking(self.fd, False)
        while not self.closed:
            before = len(self._parts)
            frames = list(self.read())
            yield from frames
            if not frames and len(self._parts) == before:
                return

    def close(self) -> None:
        """Closes the descriptor; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.closed = True


def parse(line: bytes) -> Frame:
    """One frame from one line.

    Raises:
        ValueError: it is no JSON object with a ``type``.
    """
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError):
        frame = None
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise ValueError(f"not a frame: {line[:200]!r}")
    return frame


def write(fd: int, frame: Frame) -> None:
    """Writes one frame as a whole. `os.write` may return short under a signal handler: it loops."""
    view = memoryview(json.dumps(frame, default=str).encode() + b"\n")
    while view:
        view = view[os.write(fd, view) :]


def pack(value: object) -> str:
    """A value as text for a frame. Only for processes of one session, over inherited pipes."""
    return base64.b64encode(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)).decode()


def unpack(text: str) -> Any:
    """The value that `pack` was given."""
    return pickle.loads(base64.b64decode(text))  # noqa: S301 (our own process wrote it)
