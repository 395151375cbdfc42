"""The cores and GPUs of this machine, shared by the workers of a session of pytest-xdist.

Each worker has an agent and runs one world at a time; what its ranks compute on it leases first, so
that no world's ranks crowd another's. The board lies in a file that is read and written under a
lock; who waits looks again every few milliseconds. A worker that was killed leaves its leases to
the next who looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_deepspeed.processes import containment, devices
from pytest_deepspeed.values.board import Board

#: Seconds between two looks: the first ones soon, since many worlds take a tenth of a second.
_LOOKS = (0.002, 0.02)


class Leases:
    """This process's part in the sharing.

    Args:
        folder: where the board lies, the same for all workers.
        slots: names of the cores or GPUs to share.
    """

    def __init__(self, folder: Path, slots: Sequence[str]) -> None:
        self._folder = folder
        self._slots = slots
        self._owner = f"{os.getpid()}:{containment.started_at(os.getpid())}"

    @contextlib.contextmanager
    def of(self, count: int, ending: Callable[[], bool] = lambda: False) -> Iterator[list[str]]:
        """Holds slots for a world while its ranks run.

        Args:
            count: how many ranks; of more than there are slots it holds all.
            ending: whether the session is ending; then it waits no longer, and holds none.
        """
        with self._board() as board:
            board.ask(self._owner, count)
        try:
            yield self._wait(ending)
        finally:
            with self._board() as board:
                board.leave(self._owner)

    def _wait(self, ending: Callable[[], bool]) -> list[str]:
        pause, longest = _LOOKS
        while not ending():
            with self._board() as board:
                slots = board.grant(self._owner)
            if slots is not None:
                return slots
            time.sleep(pause)
            pause = min(2 * pause, longest)
        return []

    @contextlib.contextmanager
    def _board(self) -> Iterator[Board]:
        path = self._folder / "board.json"
        with self._folder.joinpath("lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = json.loads(path.read_text()) if path.exists() else {}
            board = Board(self._slots, **known)
            for owner in list(board.owners):
                if not _lives(owner):
                    board.leave(owner)
            yield board
            unfinished = self._folder / "board.new"
            unfinished.write_text(json.dumps(board.as_json()))
            unfinished.rename(path)


def of_worker(folder: Path, device: str) -> Leases:
    """Those of a worker of pytest-xdist.

    Args:
        folder: where the board lies, the same for all workers.
        device: ``"cuda"`` to share this process's GPUs, ``"cpu"`` to share its cores.
    """
    if device == "cuda":
        return Leases(folder, devices.names_of_gpus())
    return Leases(folder, [str(core) for core in sorted(os.sched_getaffinity(0))])


def _lives(owner: str) -> bool:
    pid, _, started = owner.partition(":")
    return str(containment.started_at(int(pid))) == started
