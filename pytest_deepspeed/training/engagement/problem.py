"""What one rank's evidence shows to be wrong."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """A finding before it is known which ranks share it; see `pytest_deepspeed.values.finding`."""

    name: str
    message: str
    parameter: str = ""
