"""What of a config decides which training it is, whatever a few steps of it show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_deepspeed.training.evidence import Evidence
from pytest_deepspeed.training.twin.schedules import schedule
from pytest_deepspeed.values import modes

#: Steps at which two schedules are compared: all of a warm-up's start, then ever fewer.
_STEPS = (*range(200), *(int(200 * 1.05**n) for n in range(1, 180)))

#: Relative, between learning rates of two schedules.
_SAME = 1e-9


def differences(
    base: Evidence,
    head: Evidence,
    written: tuple[Mapping[str, Any], Mapping[str, Any]],
    samples: tuple[int | None, int | None],
) -> Iterator[str]:
    """A sentence for each setting by which the head's training is another one.

    Args:
        base: whose ``effective`` is what DeepSpeed made of it.
        head: likewise.
        written: both configs as they stand in their files.
        samples: of one optimizer step of each, on the cluster; ``None`` where it cannot be said.
    """
    dtypes = tuple(modes.dtype_of(config) for config in written)
    if dtypes[0] != dtypes[1]:
        yield f"the training is in {dtypes[1]}, and was in {dtypes[0]}"
    if None not in samples and samples[0] != samples[1]:
        yield f"a step takes {samples[1]} samples, and took {samples[0]}"
    if base.effective and head.effective:
        yield from _of_effective(base.effective, head.effective)


def _of_effective(base: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[str]:
    clipping = [_number(one["config"].get("gradient_clipping")) for one in (base, head)]
    if clipping[0] != clipping[1]:
        yield f"gradient_clipping is {_shown(clipping[1])}, and was {_shown(clipping[0])}"
    optimizers = [one["optimizer"] or {} for one in (base, head)]
    rules = [str(one.get("rule", "none")) for one in optimizers]
    if rules[0] != rules[1]:
        yield f"the optimizer is {rules[1]}, and was {rules[0]}"
    blocks = [one["config"].get("scheduler") for one in (base, head)]
    groups = [one.get("groups") or [] for one in optimizers]
    yield from _of_groups(*groups, scheduled=any(one["scheduler"] for one in (base, head)))
    kinds = [one["scheduler"] for one in (base, head)]
    if any(kinds):
        rates = [_written_rate(one, of) for one, of in zip((base, head), groups, strict=True)]
        if text := _of_schedules(blocks[0], blocks[1], rates):
            yield text


def _of_groups(
    base: Sequence[Mapping[str, Any]], head: Sequence[Mapping[str, Any]], *, scheduled: bool
) -> Iterator[str]:
    """Settings that both have in all groups; what a schedule sets is left to it."""
    left = {"lr", "initial_lr", "betas", "momentum"} if scheduled else {"initial_lr"}
    for name in dict.fromkeys(key for group in (*base, *head) for key in group):
        values = [[group.get(name) for group in groups] for groups in (base, head)]
        common = all(name in group for group in (*base, *head))
        if common and name not in left | _IMPLEMENTATION and values[0] != values[1]:
            was, now = (_values(of) for of in values)
            yield f"{name} of the optimizer is {now}, and was {was}"


#: How an optimizer computes, not what: DeepSpeed's and torch's Adam have different ones.
_IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable", "maximize", "step", "name"}


def _written_rate(effective: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """The rate that each group has from the optimizer, before a schedule changed it."""
    params = (effective["config"].get("optimizer") or {}).get("params") or {}
    given = params.get("lr")
    return [float(group.get("initial_lr") or given or group.get("lr") or 0.0) for group in groups]


def _of_schedules(base: Any, head: Any, rates: Sequence[Sequence[float]]) -> str:
    """The first step at which two schedules have other rates, as a sentence; empty for none."""
    try:
        of_base, of_head = (
            schedule(_block(block), base=rate, has_betas=False)
            for block, rate in zip((base, head), rates, strict=True)
        )
        for step in _STEPS:
            was, now = of_base.lr(step), of_head.lr(step)
            if not _equal(was, now):
                return (
                    f"the learning rate of step {step} is {_values(now)}, and was {_values(was)}:"
                    " another schedule"
                )
    except (TypeError, ValueError):
        return "" if base == head else f"the schedule is {head}, and was {base}"
    return ""


def _block(block: Any) -> Mapping[str, Any] | None:
    return block if isinstance(block, Mapping) else None


def _equal(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= _SAME * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _shown(value: float) -> str:
    return f"{value:g}" if value else "off"


def _values(values: Sequence[Any]) -> str:
    unique = list(dict.fromkeys(map(_plain, values)))
    return unique[0] if len(unique) == 1 else ", ".join(unique)


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
