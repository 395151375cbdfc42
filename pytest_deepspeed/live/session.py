"""The live line of a session: where it is drawn, what is handed to ranks, who watches when.

There is no thread. A line is drawn only while this process waits, by the one that waits: for the
ranks of a world, or as the controller of pytest-xdist for its workers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed import sharing
from pytest_deepspeed.live.line import Line
from pytest_deepspeed.live.wording import wording
from pytest_deepspeed.processes import progress

#: Seconds between two looks at what the ranks say.
_TICK = 0.25

#: In the ``workerinput`` of pytest-xdist: the folder.
WORKERINPUT = "ds_live"


class Live:
    """Draws what the files of a folder say.

    Args:
        line: where.
        folder: need not be there yet.
    """

    def __init__(self, line: Line, folder: Path) -> None:
        self.line = line
        self.folder = folder
        self._text = ""
        self._next = 0.0

    def waiting(self) -> float:
        """This process is going to wait: draws; returns after how many seconds to call again."""
        now = time.monotonic()
        if now >= self._next:
            self._text = wording(progress.read(self.folder), time.time())
            self._next = now + _TICK
        self.line.show(self._text)
        return _TICK

    def over(self) -> None:
        """What it waited for has come."""
        self.line.hide()
        self._text = ""
        self._next = 0.0


_LIVE = pytest.StashKey[Live | None]()


def of(config: pytest.Config) -> Live | None:
    """The live line of this process; ``None`` where there is none to be drawn."""
    if _LIVE not in config.stash:
        line = None if hasattr(config, "workerinput") else _line(config)
        config.stash[_LIVE] = None
        if line is not None:
            config.stash[_LIVE] = Live(line, sharing.folder(config) / "live")
            config.add_cleanup(line.close)
    return config.stash[_LIVE]


def _line(config: pytest.Config) -> Line | None:
    """On a terminal that understands it, unless the user wants less output, or the tests' own."""
    terminal = config.pluginmanager.getplugin("terminalreporter")
    file = getattr(getattr(terminal, "_tw", None), "_file", None)
    unwanted = config.getoption("verbose", 0) < 0 or config.getoption("capture", "no") == "no"
    # A pipeline may have a terminal that nobody sees: each drawing would stand in its log.
    in_pipeline = os.environ.get("CI") or os.environ.get("BUILD_NUMBER")
    if file is None or unwanted or in_pipeline or os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        fd = os.dup(file.fileno())
    except (OSError, ValueError, AttributeError):  # no file of the system
        return None
    if not os.isatty(fd):
        os.close(fd)
        return None
    assert terminal is not None
    return Line(terminal._tw, fd)


def folder(config: pytest.Config) -> Path | None:
    """Where this session's ranks and builds tell their progress; ``None`` where nobody looks."""
    live = of(config)
    told = live.folder if live else getattr(config, "workerinput", {}).get(WORKERINPUT)
    if told is None:
        return None
    path = Path(told)
    path.mkdir(parents=True, exist_ok=True)
    return path


_numbers = itertools.count()


@contextlib.contextmanager
def world(item: pytest.Item) -> Iterator[dict[str, str] | None]:
    """Lets the ranks of one world of a test be watched.

    Yields:
        the arguments of `progress.tell_in` for its rank 0; ``None`` where nobody looks.
    """
    live, where = of(item.config), folder(item.config)
    if where is None:
        yield None
        return
    file = where / f"{os.getpid()}-{next(_numbers)}"
    what = "" if isinstance(item, pytest.Function) else item.path.name
    try:
        yield {"file": str(file), "what": what}
    finally:
        file.unlink(missing_ok=True)
        if live:
            live.over()


def tell_worker(node: Any) -> None:
    """Lets the ranks of a worker of pytest-xdist be watched by its controller."""
    live = of(node.config)
    if live:
        node.workerinput[WORKERINPUT] = str(live.folder)


def watch_workers(config: pytest.Config) -> None:
    """Draws while the controller of pytest-xdist waits for its workers."""
    queue: Any = getattr(config.pluginmanager.getplugin("dsession"), "queue", None)
    live = of(config)
    if queue is None or live is None:
        return
    get, line = queue.get, live.line

    def waiting(block: bool = True, timeout: float | None = None) -> Any:
        if not block or timeout is None:
            return get(block, timeout)
        line.flush()
        try:
            # When nothing has come in time it asks again: xdist/dsession.py `loop_once`.
            return get(timeout=min(timeout, live.waiting()))
        finally:
            line.hide()

    queue.get = waiting
