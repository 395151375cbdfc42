"""Judges a training by DeepSpeed by that of its twin."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import zip_longest

from pytest_deepspeed.training.parity.evidence import MomentError, ParameterError, ParityEvidence
from pytest_deepspeed.training.parity.tolerances import AGREEMENT, LR_TOLERANCE, TOLERANCES
from pytest_deepspeed.values.finding import Finding


def check(evidence: ParityEvidence) -> list[Finding]:
    """What DeepSpeed did otherwise than its twin.

    Once weights differ, all that comes after is of another training. So `parameters` has one
    finding for each parameter that is off after the first step that has such, worst first, and
    `moments`, which are those after the last step, speak of the same parameters, or of all where
    no parameter is off.
    """
    tolerances = TOLERANCES[evidence.dtype, evidence.twin_dtype]
    parameters = list(_parameters(evidence, tolerances.parameters))
    return [
        *_series("loss", "loss", evidence.loss, evidence.twin_loss, tolerances.loss),
        *_rates(evidence),
        *_series(
            "grad_norm",
            "gradient norm",
            evidence.grad_norm,
            evidence.twin_grad_norm,
            tolerances.grad_norm,
        ),
        *parameters,
        *_moments(evidence, tolerances.moments, {finding.parameter for finding in parameters}),
        *_steps(evidence),
    ]


def agree(losses: Mapping[str, Sequence[float]], tolerance: float = AGREEMENT) -> list[Finding]:
    """Whether runs in bf16 that differ only in their ZeRO stage have the same losses.

    Of stages 1, 2 and 3 without gradient accumulation, which were bitwise equal on the trap model
    or within 3e-6. With it stage 1 rounds the sum of the micro-batches where 2 and 3 do not: it is
    6e-4 from them, which are equal.

    Args:
        losses: of each step, by the name of the run; the first is the one compared with.
        tolerance: relative.
    """
    if not losses:
        return []
    first, *others = losses
    return [
        finding
        for other in others
        for finding in _series(
            "agreement", f"loss of {other}", losses[other], losses[first], tolerance, than=first
        )
    ]


def _series(
    name: str,
    what: str,
    found: Sequence[float | None],
    expected: Sequence[float | None],
    tolerance: float | None,
    *,
    than: str = "the twin",
) -> Iterable[Finding]:
    """One number for each step; a step for which either side has none says nothing."""
    if tolerance is None:
        return
    errors = {
        step: _relative(a, b)
        for step, (a, b) in enumerate(zip_longest(found, expected))
        if a is not None and b is not None
    }
    bad = [step for step, error in errors.items() if not error <= tolerance]
    if bad:
        step = bad[0]
        worst = max(bad, key=lambda step: _order(errors[step]))
        yield Finding(
            "parity",
            name,
            f"the {what} of step {step} is {found[step]:.8g}, {than} has {expected[step]:.8g}:"
            f" {errors[step]:.1e} of it, tolerance {tolerance:.0e}. {len(bad)} of {len(errors)}"
            f" steps are beyond it, step {worst} the most, by {errors[worst]:.1e}",
            step=step,
        )


def _rates(evidence: ParityEvidence) -> Iterable[Finding]:
    pairs = zip_longest(evidence.lr, evidence.twin_lr, fillvalue=())
    for step, (found, expected) in enumerate(pairs):
        same = len(found) == len(expected) and all(
            abs(a - b) <= LR_TOLERANCE * abs(b) for a, b in zip(found, expected, strict=True)
        )
        if not same:
            yield Finding(
                "parity",
                "lr",
                f"the learning rates of step {step} are {_listed(found)}, for each parameter"
                f" group; the schedule has {_listed(expected)}",
                step=step,
            )
            return


def _parameters(evidence: ParityEvidence, tolerance: float | None) -> Iterable[Finding]:
    for name in evidence.missing_parameters:
        yield Finding("parity", "parameters", f"DeepSpeed has no parameter {name}", parameter=name)
    if tolerance is None:
        return
    errors = {p.name: _errors(evidence, p) for p in evidence.parameters}
    beyond = {
        name: [step for step, error in enumerate(of_steps) if not error <= tolerance]
        for name, of_steps in errors.items()
    }
    first = min((steps[0] for steps in beyond.values() if steps), default=None)
    if first is None:
        return
    bad = [p for p in evidence.parameters if first in beyond[p.name]]
    bad.sort(key=lambda p: _order(errors[p.name][first]), reverse=True)
    later = sum(bool(steps) for steps in beyond.values()) - len(bad)
    for place, parameter in enumerate(bad, 1):
        of_steps = errors[parameter.name]
        last = len(of_steps) - 1
        yield Finding(
            "parity",
            "parameters",
            f"{parameter.name} is off by {of_steps[first]:.1e}{_unit(evidence)} after step {first},"
            f" where its largest element is {parameter.scale[first]:.1e}, and by"
            f" {of_steps[last]:.1e} after the last, {last}; tolerance {tolerance:.0e}."
            f" {_place(place, len(bad))} of {len(errors)} parameters"
            + (f", and {later} more later" if later else ""),
            parameter=parameter.name,
            step=first,
        )


def _moments(
    evidence: ParityEvidence, tolerance: float | None, suspects: Collection[str]
) -> Iterable[Finding]:
    for name, key in evidence.missing_moments:
        yield Finding(
            "parity", "moments", f"DeepSpeed's optimizer has no {key} of {name}", parameter=name
        )
    if tolerance is None:
        return
    judged = [m for m in evidence.moments if not suspects or m.parameter in suspects]

    def error(moment: MomentError) -> float:
        absolute = moment.error if _by_element(evidence) else moment.mean_error
        return absolute / moment.scale if moment.scale else absolute

    beyond = [moment for moment in judged if not error(moment) <= tolerance]
    beyond.sort(key=lambda moment: _order(error(moment)), reverse=True)
    worst: dict[str, MomentError] = {}
    for moment in beyond:
        worst.setdefault(moment.parameter, moment)
    parameters = len({moment.parameter for moment in judged})
    for place, moment in enumerate(worst.values(), 1):
        yield Finding(
            "parity",
            "moments",
            f"{moment.moment} of {moment.parameter} is off by {error(moment):.1e}{_how(evidence)}"
            f" of its largest element, {moment.scale:.1e}, after the last step; tolerance"
            f" {tolerance:.0e}. {_place(place, len(worst))} of {parameters} parameters",
            parameter=moment.parameter,
        )


def _steps(evidence: ParityEvidence) -> Iterable[Finding]:
    if evidence.optimizer_steps != evidence.twin_optimizer_steps:
        yield Finding(
            "parity",
            "optimizer_steps",
            f"the optimizer counts {evidence.optimizer_steps} steps, the twin has made"
            f" {evidence.twin_optimizer_steps}",
        )


def _by_element(evidence: ParityEvidence) -> bool:
    """Whether the worst element counts, not the mean over them.

    Adam makes a full step of a gradient however small: in bf16 rounding may turn the sign of one.
    """
    return evidence.dtype == "fp32"


def _errors(evidence: ParityEvidence, parameter: ParameterError) -> Sequence[float]:
    """Of a parameter after each step, as the tolerance means it."""
    if _by_element(evidence):
        return parameter.error
    pairs = zip(parameter.mean_error, parameter.moved, strict=True)
    return [error / moved if moved else error and float("inf") for error, moved in pairs]


def _unit(evidence: ParityEvidence) -> str:
    return "" if _by_element(evidence) else " of its way since the start"


def _how(evidence: ParityEvidence) -> str:
    return "" if _by_element(evidence) else " in the mean"


def _place(place: int, bad: int) -> str:
    return f"Number {place} of {bad} beyond it, the worst first, out"


def _relative(found: float, expected: float) -> float:
    return abs(found - expected) / abs(expected) if expected else abs(found)


def _order(error: float) -> float:
    """Sorts NaN, which no comparison finds beyond a tolerance, as the largest."""
    return float("inf") if error != error else error  # noqa: PLR0124


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.17g}" for value in values) or "none"
