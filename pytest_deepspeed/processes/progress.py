"""How far a training or an op build is, for the live line of whoever watches the session.

What tells it overwrites a small file of its own; what shows it reads all files of a folder, a few
times a second. Where nobody watches there is no folder, and nothing is written. The file is opened
anew each time: a descriptor that a test closes may be another file's the next moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.values import modes

#: Of a file: one write of a fixed size, so that a reader never finds the end of an older one.
_BYTES = 1024

#: Characters of a name, of which each takes up to 4 bytes.
_LONGEST = 100

#: What an op build does.
COMPILING = "compiling"


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a file says.

    Attributes:
        doing: ``"training"``, ``"saving"`` and so on, or `COMPILING`.
        what: the config's file, or the op; empty where there is no file.
        mode: case id of the config, empty for an op.
        step: steps that are done, of ``steps``; 0 before the first.
        loss: of rank 0 in the last of them.
        began: seconds since the epoch.
        pid, node: process and machine that write it.
    """

    doing: str
    what: str = ""
    mode: str = ""
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    began: float = dataclasses.field(default_factory=time.time)
    pid: int = dataclasses.field(default_factory=os.getpid)
    node: str = dataclasses.field(default_factory=lambda: os.uname().nodename)

    @property
    def over(self) -> bool:
        """Whether its writer was killed before it could remove the file."""
        return self.node == os.uname().nodename and not Path(f"/proc/{self.pid}").exists()


class Telling:
    """Writes a file.

    Args:
        file: which; a session that cannot write it goes on without.
        what: as of `Progress`.
    """

    def __init__(self, file: str | Path, what: str = "") -> None:
        self._file = Path(file)
        self._said = Progress("", what[:_LONGEST])

    def say(self, **changes: Any) -> None:
        """Says what has changed."""
        self._said = dataclasses.replace(self._said, **changes)
        text = json.dumps(vars(self._said), ensure_ascii=False).encode(errors="replace")
        with contextlib.suppress(OSError):
            fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, text.ljust(_BYTES), 0)
            finally:
                os.close(fd)

    def end(self) -> None:
        """There is nothing more to say."""
        with contextlib.suppress(OSError):
            self._file.unlink()


def read(folder: Path) -> list[Progress]:
    """What all files of a folder say, the longest under way first; none where it is not there."""
    found = []
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            # One that is removed, or written, at this moment.
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Progress(**json.loads(file.read_bytes())))
    return sorted((one for one in found if not one.over), key=lambda one: one.began)


#: What this rank tells, where it is the one that is watched.
_telling: Telling | None = None


def tell_in(file: str, what: str) -> None:
    """From here on this rank tells its progress.

    Args:
        file: where.
        what: the config's file; empty where there is none.
    """
    global _telling
    _telling = Telling(file, what)


def phase(doing: str, ds_config: Mapping[str, Any], steps: int = 0) -> None:
    """What this rank does from here on, where anybody watches it.

    Args:
        doing: as of `Progress`.
        ds_config: under which config.
        steps: how many steps it is going to train; 0 where it trains none.
    """
    if _telling is not None:
        mode = modes.case_id(ds_config)[:_LONGEST]
        _telling.say(doing=doing, mode=mode, step=0, steps=steps)


def stepped(number: int, step: Any) -> None:
    """This rank has done a step: an ``on_step`` of `reference_training.train.run_steps`.

    Args:
        number: of the step, from 0.
        step: a `reference_training.record.Step`.
    """
    if _telling is not None:
        _telling.say(step=number + 1, loss=step.loss)
