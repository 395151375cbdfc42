"""What a check found wrong, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Literal

Check = Literal[
    "loss", "ranks", "parity", "engagement", "memory", "checkpoint", "reshard", "against"
]

#: Of one config, in the order in which they are shown.
CHECKS: tuple[Check, ...] = (
    "loss",
    "ranks",
    "parity",
    "engagement",
    "memory",
    "checkpoint",
    "reshard",
)


#: What can be checked of a config file; the first starts no process, the last needs a base.
ITEMS = ("schema", *CHECKS, "against")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a training.

    Attributes:
        check: the check that found it.
        name: what it is about, stable from release to release: ``"grad_norm"``, ``"swap_files"``.
        message: what was expected, what was found, what to change or type next.
        parameter: the parameter it is worst at, by its name in the model; empty where it is about
            none.
        step: the first optimizer step that shows it, from 0; ``None`` where it is about none.
    """

    check: Check
    name: str
    message: str
    parameter: str = ""
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.check}.{self.name}: {self.message}"
