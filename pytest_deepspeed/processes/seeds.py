"""Random generators start alike on every rank and in every run."""

from __future__ import annotations

import random
import sys


def seed(number: int) -> None:
    """Seeds `random`, and NumPy's and torch's global generators where they are imported.

    After a fork they would hold whatever the agent's imports have drawn, the same on each rank.
    """
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number % 2**32)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(number)
