"""What a project says of changes to its configs: ``[tool.pytest_deepspeed.against]``, and those
that it has accepted, each with the reason why.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

#: Trainings of base and of head whose times are compared.
PAIRS = 3


@dataclasses.dataclass(frozen=True)
class Against:
    """How far the training of a changed config may be from what it was.

    Attributes:
        loss, grad_norm, parameters: in fp32, in place of the defaults; the first two relative,
            the last for each element.
        memory: how many times a rank's peak may be; ``None``: as much as its limits allow.
        step_time: how many times as long a step may take; ``None`` for any.
        pairs: how often both are trained.
    """

    loss: float | None = None
    grad_norm: float | None = None
    parameters: float | None = None
    memory: float | None = None
    step_time: float | None = None
    pairs: int = PAIRS

    @property
    def tolerances(self) -> dict[str, float]:
        """Those that take the place of the defaults."""
        of_name = {name: getattr(self, name) for name in ("loss", "grad_norm", "parameters")}
        return {name: value for name, value in of_name.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Accepted:
    """A change that is meant.

    Attributes:
        change: its digest, as the report of the change has it.
        reason: why, for whoever reads the report.
        config: the file, for whoever reads this; nothing depends on it.
    """

    change: str
    reason: str
    config: str = ""


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError("a number above 0")
    return float(value)


def _pairs(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a whole number of 1 or more")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{12}", value):
        raise ValueError("twelve digits of a change, as the failure of ::against shows them")
    return value


def _reason(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("why the change is meant, in words")
    return value.strip()


def _path(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("the path of a config")
    return value


Parsers = Mapping[str, Callable[[Any], Any]]

AGAINST: Parsers = {
    **dict.fromkeys(("loss", "grad_norm", "parameters", "memory", "step_time"), _positive),
    "pairs": _pairs,
}

ACCEPTED: Parsers = {"config": _path, "change": _digest, "reason": _reason}
