"""What a trial leaves: plain data, which the checks judge wherever they like, without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.training.engagement.evidence import RankEngagement, SwapFile
from pytest_deepspeed.training.memory.evidence import MemoryEvidence
from pytest_deepspeed.training.parity.evidence import ParityEvidence
from pytest_deepspeed.training.trial import Trial


@dataclasses.dataclass(frozen=True)
class RankEvidence:
    """What one rank saw.

    Attributes:
        grad_norm: of each step.
        digests: after each step, a checksum of each weight that the rank holds in full; ``None``
            where it holds parts only, at ZeRO stage 3.
        engagement: what its engine was made of.
    """

    grad_norm: tuple[float | None, ...]
    digests: tuple[dict[str, int] | None, ...]
    engagement: RankEngagement


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one trial did.

    Attributes:
        trial: what was asked for.
        loss: of each step, mean over ranks and micro-batches.
        optimizer_steps: by the optimizer's own count.
        skipped_steps: those that DeepSpeed gave up.
        train_batch_size: samples of all ranks in one step.
        samples_per_second: of all ranks.
        step_time: seconds of each step on rank 0, data included.
        data: what was trained on.
        traits: of the trap model.
        groups: of each parameter group, the values that take the place of the config's.
        ranks: what each rank saw.
        parity: beside the twin, in the dtype of the config, and in fp32 where that is another.
        uncovered: why there is no twin; empty where there is.
        memory: what each rank held.
        left: files that DeepSpeed left in ``nvme_path`` when the engine was destroyed.
        effective: what DeepSpeed made of the config on rank 0, as of
            `pytest_deepspeed.training.effective.effective`.
    """

    trial: Trial
    loss: tuple[float, ...]
    optimizer_steps: int
    skipped_steps: int
    train_batch_size: int
    samples_per_second: float
    data: str
    traits: tuple[str, ...]
    groups: tuple[dict[str, float], ...]
    ranks: tuple[RankEvidence, ...]
    parity: tuple[ParityEvidence, ...]
    uncovered: str
    memory: MemoryEvidence
    left: tuple[SwapFile, ...]
    effective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step_time: tuple[float, ...] = ()
