"""What a rank writes to stdout and stderr, kept by its agent so that a dead rank's is not lost."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable

#: Of a flood only the tail is kept.
_TAIL = 1 << 20


class Output:
    """One stream of one rank: a memory file, or with ``-s`` a pipe that is passed on by lines."""

    def __init__(self, name: str, write_fd: int, read_fd: int, live: bool) -> None:
        self.name = name
        self.write_fd = write_fd
        self._read_fd = read_fd
        self._live = live
        self._rest = b""
        self._line: Callable[[str, str], None] | None = None
        self._selector: selectors.BaseSelector | None = None

    @classmethod
    def make(cls, name: str, live: bool) -> Output:
        """A new stream, before the fork."""
        if live:
            read_fd, write_fd = os.pipe()
            os.set_blocking(read_fd, False)
            return cls(name, write_fd, read_fd, live)
        fd = os.memfd_create(name)
        os.set_inheritable(fd, False)
        # Append mode: a rank's child that writes through another descriptor overwrites nothing.
        write_fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND)
        return cls(name, write_fd, fd, live)

    def forked(self) -> None:
        """In the agent: the writing end is the rank's now."""
        os.close(self.write_fd)
        self.write_fd = -1

    def watch(self, selector: selectors.BaseSelector, line: Callable[[str, str], None]) -> None:
        """Passes complete lines on as they come, where the stream is live."""
        if self._live:
            self._line = line
            self._selector = selector
            selector.register(self._read_fd, selectors.EVENT_READ, self._pump)

    def _pump(self) -> bool:
        """Reads once and passes lines on; whether there was anything."""
        try:
            data = os.read(self._read_fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._unwatch()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            if self._line is not None:
                self._line(self.name, raw.decode(errors="replace"))
        return True

    def text(self) -> str:
        """What was written, without what went to the terminal already."""
        if self._live:
            while self._pump():
                pass
            if self._rest and self._line is not None:
                self._line(self.name, self._rest.decode(errors="replace"))
                self._rest = b""
            return ""
        size = os.fstat(self._read_fd).st_size
        data = os.pread(self._read_fd, _TAIL, max(0, size - _TAIL))
        if size <= _TAIL:
            return data.decode(errors="replace")
        data = data.partition(b"\n")[2] or data
        return f"[{size - len(data)} bytes left out]\n" + data.decode(errors="replace")

    def _unwatch(self) -> None:
        if self._selector is not None:
            self._selector.unregister(self._read_fd)
            self._selector = None

    @property
    def fds(self) -> list[int]:
        """The descriptors that are open."""
        return [fd for fd in (self._read_fd, self.write_fd) if fd >= 0]

    def close(self) -> None:
        """Gives the descriptors back."""
        self._unwatch()
        for fd in self.fds:
            os.close(fd)
        self._read_fd = self.write_fd = -1
