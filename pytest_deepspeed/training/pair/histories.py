"""What one training did, kept for another one that is compared with it; on ranks."""

from __future__ import annotations

import dataclasses

from pytest_deepspeed.training.parity.compare import History, compare
from pytest_deepspeed.values import plain


def write(history: History, file: str) -> None:
    """Writes a history to a file."""
    import torch

    fields = {field.name: getattr(history, field.name) for field in dataclasses.fields(history)}
    torch.save(fields, file)


def beside(base: str, head: str) -> str:
    """How far the history of one file is from that of another, as a `ParityEvidence` in JSON.

    The base stands where the twin does.
    """
    return plain.dump(compare(_read(head), _read(base)))


def _read(file: str) -> History:
    import torch

    return History(**torch.load(file, weights_only=True))
