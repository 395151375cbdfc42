"""A line of text below the one that pytest is writing, which is gone before pytest goes on."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

from pytest_deepspeed.live.wording import clipped

#: VT100's, which every terminal has that has any. The cursor stays where pytest has left it: down
#: and up again, which scrolls at the bottom; save it; next line, erase what stands there.
_BELOW = "\x1bD\x1b[A\x1b7\r\n\x1b[J"
_BACK = "\x1b8"
_ERASE = "\x1b[J"


class Line:
    """A terminal's live line.

    It takes the writer's methods over, so that whatever pytest or a plugin writes, from a signal
    handler too, comes after the line is gone.

    Args:
        writer: pytest's `TerminalWriter`.
        fd: its terminal; not its own descriptor, which pytest turns away while a test runs.
    """

    def __init__(self, writer: Any, fd: int) -> None:
        self._writer = writer
        self._fd = fd
        self._shown = ""
        for name in ("write", "write_raw"):
            setattr(writer, name, self._after_hiding(getattr(writer, name)))

    def _after_hiding(self, write: Any) -> Any:
        @functools.wraps(write)
        def hiding(*args: Any, **kwargs: Any) -> Any:
            self.hide()
            return write(*args, **kwargs)

        return hiding

    def show(self, text: str) -> None:
        """Shows a text in place of the last one; no more than fits the terminal as it is now."""
        if text == self._shown or self._fd < 0:
            return
        if not text or not self._in_foreground() or self._at_the_edge():
            self.hide()
            return
        encoding = self._writer._file.encoding
        speaks = "·".encode(encoding, "replace") != b"?"
        # The last column stays free: behind it a terminal may begin the next line.
        fitting = clipped(text, self._columns() - 1)
        fitting = fitting if speaks else fitting.replace("·", "-")
        self._shown = text
        self._write(_BELOW + self._writer.markup(fitting, light=True) + _BACK, encoding)

    def hide(self) -> None:
        """Leaves the screen as pytest has written it."""
        if self._shown:
            self._shown = ""
            self._write(_ERASE)

    def flush(self) -> None:
        """Lets the terminal have what pytest has written so far; not while that is captured."""
        self._writer.flush()

    def close(self) -> None:
        """Hides it for good."""
        self.hide()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, text: str, encoding: str = "ascii") -> None:
        with contextlib.suppress(OSError):  # the terminal was closed
            os.write(self._fd, text.encode(encoding, "replace"))

    def _columns(self) -> int:
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self._fd).columns or 80
        return 80

    def _at_the_edge(self) -> bool:
        """Whether the cursor waits behind the last column, a state that no movement brings back."""
        width = int(self._writer.width_of_current_line)
        return width > 0 and width % self._columns() == 0

    def _in_foreground(self) -> bool:
        """Whether the shell has given the terminal to this job; or it is no shell's."""
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        return True
