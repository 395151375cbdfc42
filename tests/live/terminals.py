"""A terminal of 80 columns, what was written to it, and each picture that a person could see."""

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

import inner
import pyte

#: What the live line writes, and pytest never does: a drawing, an erasure.
DRAWN = re.compile(rb"\x1bD\x1b\[A\x1b7\r\r?\n\x1b\[J(.*?)\x1b8", re.DOTALL)
ERASED = re.compile(rb"\x1b\[J")


def screen(columns=80, rows=24):
    """A terminal that keeps what scrolls out of it."""
    return pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)


def lines(of):
    """All that a screen holds, with what has scrolled out of it, to the last line with text."""
    above = [[row[column].data for column in range(of.columns)] for row in of.history.top]
    text = ["".join(row).rstrip() for row in [*above, *of.display]]
    while text and not text[-1]:
        del text[-1]
    return text


#: Takes the terminal that it was started on, which sends Ctrl-C to it from then on.
_LEADER = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
"""


class Terminal:
    """The two ends of a pseudo-terminal; the person's end draws on a `screen`."""

    def __init__(self, columns=80, rows=24):
        self.ours, self.theirs = os.openpty()
        self.raw = b""
        self.resize(columns, rows)
        self.screen = screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)

    def resize(self, columns, rows=24):
        """Tells the programs on it; the screen does not reflow."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, size)

    def read(self):
        """Takes what was written; ``False`` when the last program on it has ended."""
        with contextlib.suppress(OSError):
            if data := os.read(self.ours, 65536):
                self.raw += data
                self._stream.feed(data)
                return True
        return False

    def see(self):
        """What stands on it now, after all that was written up to here."""
        os.write(self.theirs, b"\x07")  # a bell, which moves nothing
        while not self.raw.endswith(b"\x07"):
            self.read()
        self.raw = self.raw[:-1]
        return lines(self.screen)

    @property
    def texts(self):
        """What the live line said, each text once, without colour and seconds."""
        said = [re.sub(r"\x1b\[\d*m", "", t.decode()) for t in DRAWN.findall(self.raw)]
        said = [re.sub(r"\b\d+ s\b", "N s", text) for text in said]
        return [text for i, text in enumerate(said) if text not in said[:i]]

    @property
    def without(self):
        """What would stand on it, had the live line never been there."""
        bare = screen(self.screen.columns, self.screen.lines)
        pyte.ByteStream(bare).feed(ERASED.sub(b"", DRAWN.sub(b"", self.raw)))
        return lines(bare)


def start(terminal, folder, *args, **env):
    """Starts pytest on a terminal, as its session's leader, as a shell does."""
    told = inner.environment(**{"TERM": "xterm", **env})
    del told["COLUMNS"]

    process = subprocess.Popen(
        [sys.executable, "-c", _LEADER, "-p", "no:cacheprovider", *args],
        cwd=folder,
        env=told,
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        start_new_session=True,
    )
    os.close(terminal.theirs)
    return process


def plain(shown, folder):
    """Without what differs from run to run."""
    text = inner.normalised("\n".join(shown), folder)
    text = re.sub(r"\d+(\.\d+)? ?(s|min)\b( \(\d+:\d\d:\d\d\))?", "N s", text)
    text = re.sub(r" +", " ", text)
    return re.sub(r"(=+) (.*N s.*?) =+", r"= \2 =", text)
