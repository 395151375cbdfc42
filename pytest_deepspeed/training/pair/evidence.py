"""What a pair of trainings leaves, as plain data."""

from __future__ import annotations

import dataclasses

from pytest_deepspeed.training.evidence import Evidence
from pytest_deepspeed.training.parity.evidence import ParityEvidence


@dataclasses.dataclass(frozen=True)
class Continued:
    """The head's config, given the base's checkpoint.

    Attributes:
        refusal: what `load_checkpoint` raised; empty where it did not.
        differing: what is not as it was saved, after the load: ``"weights of head.bias"``.
        losses: of the steps that followed it, mean over the ranks.
        base_losses: of the same steps, where the base trained straight on.
        universal: whether it was converted to a universal checkpoint first.
        skipped: why it was not tried; empty where it was.
        way_out: what would take the state over, tried and found right; empty where nothing was.
    """

    refusal: str = ""
    differing: tuple[str, ...] = ()
    losses: tuple[float, ...] = ()
    base_losses: tuple[float, ...] = ()
    universal: bool = False
    skipped: str = ""
    way_out: str = ""


@dataclasses.dataclass(frozen=True)
class PairEvidence:
    """Base and head, trained on the same data from the same seed, one after the other.

    Attributes:
        base: of the first training of the base.
        head: of the first training of the head.
        written: the head beside the base, in the dtypes that the configs ask for.
        single: likewise, both in fp32, where rounding hides less; ``None`` where ``written`` is.
        doubt: plain torch beside plain torch that starts a rounding error away, in fp32: how far
            right trainings of the user's own workload may be apart; ``None`` for the trap model.
        step_times: of each pair, the seconds of each step of base and of head.
        checkpoint: the head, given the base's checkpoint.
        notes: what could not be tried, and why.
    """

    base: Evidence
    head: Evidence
    written: ParityEvidence
    single: ParityEvidence | None
    doubt: ParityEvidence | None
    step_times: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    checkpoint: Continued
    notes: tuple[str, ...] = ()
