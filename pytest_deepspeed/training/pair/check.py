"""Judges what a pair of trainings leaves: whether the head's is the base's."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_deepspeed.training.evidence import Evidence
from pytest_deepspeed.training.memory import check as memory
from pytest_deepspeed.training.pair import settings
from pytest_deepspeed.training.pair.evidence import Continued, PairEvidence
from pytest_deepspeed.training.parity.check import allow, relatives
from pytest_deepspeed.training.parity.evidence import ParameterError, ParityEvidence
from pytest_deepspeed.training.parity.tolerances import TOLERANCES, Tolerances
from pytest_deepspeed.values.finding import Finding
from pytest_deepspeed.values.size import format_size

#: Base and head may each be as far from plain torch as a right training is.
_BOTH = 2.0


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """How far the head may be from the base.

    Attributes:
        tolerances: of loss, grad_norm and parameters in fp32, in place of the defaults, by name.
        memory: how many times the base's a rank's peak may be; ``None`` for any.
        step_time: how many times the base's a step may take, in the median; ``None`` for any.
    """

    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    memory: float | None = None
    step_time: float | None = None


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A step's time, head by base, over all pairs: median, and what half of them lie between."""

    median: float
    low: float
    high: float


def check(
    pair: PairEvidence,
    thresholds: Thresholds,
    written: tuple[Mapping[str, Any], Mapping[str, Any]],
    samples: tuple[int | None, int | None],
) -> list[Finding]:
    """Why the head's training is not the base's; empty where it is.

    Args:
        pair: what was seen.
        thresholds: how far they may be apart.
        written: both configs as they stand in their files.
        samples: as of `settings.differences`.
    """
    found = [
        Finding("against", "settings", text)
        for text in settings.differences(pair.base, pair.head, written, samples)
    ]
    measured = [*trajectory(pair, thresholds.tolerances)]
    found += measured
    found += _checkpoint(pair.checkpoint, same_training=not found, same_batch=_same_batch(pair))
    found += _costs(pair, thresholds)
    return found


def trajectory(pair: PairEvidence, own: Mapping[str, float]) -> Iterator[Finding]:
    """Where losses, gradient norms and weights part: in fp32 where both trained in it too."""
    if pair.single is not None:
        found = list(_apart(pair.single, _widened(("fp32", "fp32"), own), pair.doubt, " in fp32"))
        yield from found
        if found:
            return
        doubt = None
    else:
        doubt = pair.doubt
    dtypes = (_judged_as(pair.written.dtype), _judged_as(pair.written.twin_dtype))
    half = dtypes if dtypes in TOLERANCES else ("bf16", "fp32")
    exact = half == ("fp32", "fp32")
    yield from _apart(pair.written, _widened(half, own if exact else {}), doubt, "")


def _judged_as(dtype: str) -> str:
    """fp16 has more digits than bf16, and is held to bf16's tolerances."""
    return "bf16" if dtype == "fp16" else dtype


def _widened(dtypes: tuple[str, str], own: Mapping[str, float]) -> Tolerances:
    plain = TOLERANCES[dtypes]
    wide = {
        field.name: _BOTH * value
        for field in dataclasses.fields(plain)
        if (value := getattr(plain, field.name)) is not None
    }
    wide |= {name: value for name, value in own.items() if getattr(plain, name) is not None}
    return dataclasses.replace(plain, **wide)


def _apart(
    found: ParityEvidence, tolerances: Tolerances, doubt: ParityEvidence | None, where: str
) -> Iterator[Finding]:
    for name, what, now, was in (
        ("loss", "loss", found.loss, found.twin_loss),
        ("grad_norm", "gradient norm", found.grad_norm, found.twin_grad_norm),
    ):
        doubts = _series_of(doubt, name)
        if found_at := _series(what, now, was, getattr(tolerances, name), doubts, where):
            step, text = found_at
            yield Finding("against", name, text, step=step)
    if of_weights := _weights(found, tolerances.parameters, doubt, where):
        yield Finding("against", "weights", of_weights)


def _series_of(doubt: ParityEvidence | None, name: str) -> Mapping[int, float]:
    if doubt is None:
        return {}
    return relatives(getattr(doubt, name), getattr(doubt, f"twin_{name}"))


def _series(
    what: str,
    now: Sequence[float | None],
    was: Sequence[float | None],
    tolerance: float | None,
    doubts: Mapping[int, float],
    where: str,
) -> tuple[int, str] | None:
    """The first step beyond the tolerance, and a sentence on it and on the worst."""
    if tolerance is None:
        return None
    errors = relatives(now, was)
    beyond = [s for s, e in errors.items() if not e <= allow(tolerance, doubts.get(s, 0.0))]
    if not beyond:
        return None
    step = beyond[0]
    worst = max(beyond, key=lambda s: math.inf if math.isnan(errors[s]) else errors[s])
    text = (
        f"the {what} of step {step}{where} is {now[step]:.6g}, and was {was[step]:.6g}:"
        f" {_percent(errors[step])} off, tolerance {tolerance:.0e}; {len(beyond)} of {len(errors)}"
        f" steps are beyond it, step {worst} the most, {_percent(errors[worst])} off"
    )
    return step, text


def _percent(error: float) -> str:
    return f"{error:.1%}" if error >= 1e-3 else f"{error:.1e}"


def _weights(
    found: ParityEvidence,
    tolerance: float | None,
    doubt: ParityEvidence | None,
    where: str,
) -> str:
    """Of the weights after the last step, those beyond the tolerance, the worst named."""
    if tolerance is None:
        return ""
    by_element = found.dtype == "fp32" == found.twin_dtype
    doubts = {p.name: _error(p, by_element) for p in doubt.parameters} if doubt else {}
    errors = {p.name: _error(p, by_element) for p in found.parameters}
    beyond = [n for n, e in errors.items() if not e <= allow(tolerance, doubts.get(n, 0.0))]
    beyond += found.missing_parameters
    if not beyond:
        return ""
    worst = max(beyond, key=lambda name: errors.get(name, math.inf))
    unit = "" if by_element else " of its way since the start"
    return (
        f"after {len(found.loss)} steps{where} {len(beyond)} of {len(errors)} weights are beyond"
        f" the tolerance of {tolerance:.0e}{unit}, {worst} the most, by"
        f" {errors.get(worst, math.inf):.1e}"
    )


def _error(parameter: ParameterError, by_element: bool) -> float:
    if by_element:
        return parameter.error[-1]
    error, moved = parameter.mean_error[-1], parameter.moved[-1]
    return error / moved if moved else math.inf if error else 0.0


def _same_batch(pair: PairEvidence) -> bool:
    return pair.base.train_batch_size == pair.head.train_batch_size


def _checkpoint(found: Continued, *, same_training: bool, same_batch: bool) -> Iterator[Finding]:
    """Whether a run that goes on can take the head's config: what is lost where it cannot."""
    way = f". {found.way_out[0].upper()}{found.way_out[1:]}" if found.way_out else ""
    if found.refusal:
        yield Finding(
            "against",
            "checkpoint",
            f"the head's config cannot load the base's checkpoint: {found.refusal}{way}",
        )
    elif found.differing:
        yield Finding(
            "against",
            "checkpoint",
            "the head's config loads the base's checkpoint without an error, and not all of it:"
            f" another state of {'; '.join(found.differing)}{way}",
        )
    elif same_batch and not found.skipped:
        compared = len(found.losses) if same_training else 1
        errors = relatives(found.losses[:compared], found.base_losses[:compared])
        tolerance = _BOTH * TOLERANCES["bf16", "fp32"].loss
        bad = [step for step, error in errors.items() if not error <= tolerance]
        if bad:
            step = bad[0]
            yield Finding(
                "against",
                "checkpoint",
                f"after the head has loaded the base's checkpoint, the loss of step {step} from"
                f" there is {found.losses[step]:.6g}, where the base had"
                f" {found.base_losses[step]:.6g}",
            )


def checkpoint_sentence(found: Continued) -> str:
    """What becomes of the base's checkpoint, in a sentence."""
    if found.skipped:
        return f"the base's checkpoint was not tried: {found.skipped}"
    if found.refusal or found.differing:
        return "the base's checkpoint is stranded"
    how = " as a universal one" if found.universal else ""
    return f"the base's checkpoint loads{how}, whole"


def _costs(pair: PairEvidence, thresholds: Thresholds) -> Iterator[Finding]:
    """Memory and time, where limits on their growth are set."""
    if thresholds.memory is not None:
        for name, (was, now) in peaks(pair).items():
            if was and now > thresholds.memory * was:
                yield Finding(
                    "against",
                    "memory",
                    f"the peak of {name} on a rank is {format_size(now)}, and was"
                    f" {format_size(was)}: {now / was:.2f} times, allowed are"
                    f" {thresholds.memory:g}",
                )
    ratio = step_time_ratio(pair)
    if thresholds.step_time is not None and ratio and ratio.low > thresholds.step_time:
        yield Finding(
            "against",
            "step_time",
            f"a step takes {ratio.median:.2f} times as long (half of the steps between"
            f" {ratio.low:.2f} and {ratio.high:.2f}), allowed are {thresholds.step_time:g}",
        )


def held(pair: PairEvidence) -> dict[str, tuple[int, int]]:
    """Bytes of each category on the rank that holds most of it: of the base and of the head."""
    sides = [_held(pair.base), _held(pair.head)]
    names = dict.fromkeys(name for side in sides for name in side)
    return {name: (sides[0].get(name, 0), sides[1].get(name, 0)) for name in names}


def _held(evidence: Evidence) -> dict[str, int]:
    ranks = evidence.memory.ranks
    found = {}
    for category in (*ranks[0].held, "nvme"):
        sizes = [size for rank in ranks if (size := memory.measured(rank, category))]
        if sizes:
            found[category] = max(sizes)
    return found


def peaks(pair: PairEvidence) -> dict[str, tuple[int, int]]:
    """Of tensors, and of the device where there is one, on the rank that takes most.

    Not of host memory: its peak is that of the process, and varies from run to run.
    """
    found = {}
    for name in ("tensors", "device"):
        sides = [
            max((getattr(rank, name) or 0 for rank in evidence.memory.ranks), default=0)
            for evidence in (pair.base, pair.head)
        ]
        if any(sides):
            found[name] = (sides[0], sides[1])
    return found


def step_time_ratio(pair: PairEvidence) -> Ratio | None:
    """Of the same step in both trainings of a pair; the first pays for what is loaded late."""
    ratios = [
        now / was
        for of_base, of_head in pair.step_times
        for was, now in list(zip(of_base, of_head, strict=False))[1:]
        if was > 0
    ]
    if len(ratios) < 2:
        return None
    low, median, high = statistics.quantiles(ratios, n=4)
    return Ratio(median, low, high)


def optimizers(pair: PairEvidence) -> tuple[str, str]:
    """The class of each side's optimizer, as it is in use."""
    base, head = (_optimizer(one.effective) for one in (pair.base, pair.head))
    return base, head


def _optimizer(effective: Mapping[str, Any]) -> str:
    return str((effective.get("optimizer") or {}).get("class", "none")) if effective else ""
