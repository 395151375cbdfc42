"""One line of what a machine can do, and the command that brings what it lacks."""

from __future__ import annotations

import dataclasses
from typing import Literal

#: ``ok``: there. ``--``: not there, and some tests do without. ``!!``: nothing can run without it.
Mark = Literal["ok", "--", "!!"]


@dataclasses.dataclass(frozen=True)
class Line:
    """What was found of one thing.

    Attributes:
        mark: whether it is there.
        topic: its name, one word.
        text: what was found.
        remedy: the command to type, or what else to do; empty where nothing is to be done.
    """

    mark: Mark
    topic: str
    text: str
    remedy: str = ""
