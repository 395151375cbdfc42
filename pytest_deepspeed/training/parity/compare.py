"""Two trainings side by side: what each did, and how far apart they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_deepspeed.training.parity.evidence import MomentError, ParameterError, ParityEvidence

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class History:
    """What one training did, by DeepSpeed or by its twin.

    Attributes:
        dtype: of forward and backward passes: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        loss: of each step, mean over ranks and micro-batches.
        grad_norm: of each step, before clipping; ``None`` where there is none.
        lr: of each step, for each parameter group.
        parameters: after each step: the fp32 weights in full, on the CPU, of all parameters, those
            that are frozen too; a tied one under its first name.
        moments: after the last step: ``{parameter: {"exp_avg": tensor}}``.
        optimizer_steps: the optimizer's own count.
        start: the parameters before the first step; the twin's history has them.
    """

    dtype: str
    loss: tuple[float, ...]
    grad_norm: tuple[float | None, ...]
    lr: tuple[tuple[float, ...], ...]
    parameters: tuple[Mapping[str, Tensor], ...]
    moments: Mapping[str, Mapping[str, Tensor]]
    optimizer_steps: int
    start: Mapping[str, Tensor] | None = None


def compare(deepspeed: History, twin: History) -> ParityEvidence:
    """How far DeepSpeed's training is from its twin's, at each step.

    Raises:
        ValueError: they have different numbers of steps.
    """
    if len(deepspeed.loss) != len(twin.loss):
        raise ValueError(f"{len(deepspeed.loss)} steps of DeepSpeed, {len(twin.loss)} of the twin")
    of_deepspeed = {(n, k): t for n, kinds in deepspeed.moments.items() for k, t in kinds.items()}
    of_twin = {(n, k): t for n, kinds in twin.moments.items() for k, t in kinds.items()}
    return ParityEvidence(
        dtype=deepspeed.dtype,
        twin_dtype=twin.dtype,
        loss=deepspeed.loss,
        twin_loss=twin.loss,
        grad_norm=deepspeed.grad_norm,
        twin_grad_norm=twin.grad_norm,
        lr=deepspeed.lr,
        twin_lr=twin.lr,
        parameters=tuple(
            _parameter(name, deepspeed, twin)
            for name in deepspeed.parameters[0]
            if name in twin.parameters[0]
        ),
        moments=tuple(
            MomentError(name, kind, *_distance(moment, of_twin[name, kind]))
            for (name, kind), moment in of_deepspeed.items()
            if (name, kind) in of_twin
        ),
        missing_parameters=tuple(sorted(set(twin.parameters[0]) - set(deepspeed.parameters[0]))),
        missing_moments=tuple(sorted(set(of_twin) - set(of_deepspeed))),
        optimizer_steps=deepspeed.optimizer_steps,
        twin_optimizer_steps=twin.optimizer_steps,
    )


def _parameter(name: str, deepspeed: History, twin: History) -> ParameterError:
    expected = [weights[name] for weights in twin.parameters]
    found = [weights[name] for weights in deepspeed.parameters]
    errors, means, scales = zip(*map(_distance, found, expected), strict=True)
    start = expected[0] if twin.start is None else twin.start[name]
    moved = tuple(_distance(start, weight)[1] for weight in expected)
    return ParameterError(name, errors, means, scales, moved)


def _distance(found: Tensor, expected: Tensor) -> tuple[float, float, float]:
    """The largest and the mean absolute difference of an element, and the largest one expected.

    The differences are infinite where the shapes differ, NaN where an element is.
    """
    if not expected.numel() and not found.numel():
        return 0.0, 0.0, 0.0
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    if found.shape != expected.shape:
        return float("inf"), float("inf"), scale
    difference = (found.double() - expected.double()).abs()
    return float(difference.max()), float(difference.mean()), scale
