"""DeepSpeed's five schedulers as pure functions of the optimizer step.

Written from the documentation (https://deepspeed.readthedocs.io/en/latest/schedulers.html) and
verified against `deepspeed.runtime.lr_schedules`. The rate of step 0 is what a scheduler sets when
it is made. It is called once after each step, with a count from 0, so that step `t` has what the
count `t - 1` gives: a warm-up has its first rate twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rates = tuple[float, ...]

#: `(beta1, beta2)` of Adam and its kin.
Betas = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a scheduler sets before each optimizer step, counted from 0.

    Attributes:
        lr: the learning rate of each parameter group at a step.
        betas: those of each group; ``None`` where the scheduler leaves them alone.
    """

    lr: Callable[[int], Rates]
    betas: Callable[[int], tuple[Betas, ...]] | None = None


def schedule(
    block: Mapping[str, Any] | None, *, base: Sequence[float], has_betas: bool
) -> Schedule:
    """The schedule of a config's ``scheduler`` block; constant rates without one.

    Args:
        block: ``{"type": ..., "params": {...}}``.
        base: the learning rate that each parameter group has from the optimizer.
        has_betas: whether the optimizer has betas among its defaults, which OneCycle moves.

    Raises:
        ValueError: there is no such scheduler.
    """
    base = tuple(base)
    if not block or not block.get("type"):
        return Schedule(lambda _: base)
    if block["type"] not in SCHEDULERS:
        raise ValueError(f"no scheduler {block['type']!r}; there are {', '.join(SCHEDULERS)}")
    params = dict(block.get("params") or {})
    if block["type"] == "OneCycle":
        return _one_cycle(base, has_betas=has_betas, **params)
    return Schedule(SCHEDULERS[block["type"]](base, **params))


def _per_group(value: float | Sequence[float], base: Rates) -> Rates:
    return tuple(value) if isinstance(value, Sequence) else (value,) * len(base)


def _warm(count: int, steps: int, kind: str) -> float:
    """The share of a warm-up of `steps` that is done, from 0 to 1; logarithmic unless linear."""
    return count / steps if kind == "linear" else math.log(count + 1) / math.log(steps)


def _between(low: Rates, high: Rates, share: float) -> Rates:
    return tuple(a + (b - a) * share for a, b in zip(low, high, strict=True))


def _warmup_lr(
    base: Rates,
    *,
    warmup_min_lr: float | Sequence[float] = 0.0,
    warmup_max_lr: float | Sequence[float] | None = None,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
    after: Callable[[int], float] = lambda _: 1.0,
) -> Callable[[int], Rates]:
    low = _per_group(warmup_min_lr, base)
    high = base if warmup_max_lr is None else _per_group(warmup_max_lr, base)
    steps = max(2, warmup_num_steps)

    def lr(step: int) -> Rates:
        if step == 0:
            return low
        count = step - 1
        share = _warm(count, steps, warmup_type) if count < steps else after(count)
        return _between(low, high, share)

    return lr


def _warmup_decay_lr(
    base: Rates,
    *,
    total_num_steps: int,
    warmup_max_lr: float | Sequence[float] = 0.001,
    warmup_num_steps: int = 1000,
    **params: Any,
) -> Callable[[int], Rates]:
    """Down to ``warmup_min_lr``, not to 0, in a straight line from the end of the warm-up."""
    decay = max(1.0, total_num_steps - max(2, warmup_num_steps))
    return _warmup_lr(
        base,
        warmup_max_lr=warmup_max_lr,
        warmup_num_steps=warmup_num_steps,
        after=lambda count: max(0.0, (total_num_steps - count) / decay),
        **params,
    )


def _warmup_cosine_lr(
    base: Rates,
    *,
    total_num_steps: int,
    warmup_min_ratio: float = 0.0,
    warmup_num_steps: int = 1000,
    cos_min_ratio: float = 0.0001,
    warmup_type: str = "log",
) -> Callable[[int], Rates]:
    """Factors on the optimizer's own rates; the very first is 0 whatever ``warmup_min_ratio``."""
    steps = max(2, warmup_num_steps)
    decay = max(1, total_num_steps - steps)

    def ratio(count: int) -> float:
        if count < steps:
            return warmup_min_ratio + (1 - warmup_min_ratio) * _warm(count, steps, warmup_type)
        done = min(1.0, (count - steps + 1) / decay)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return max(0.0, cos_min_ratio + (1 - cos_min_ratio) * cosine)

    return lambda step: tuple(rate * (ratio(step - 1) if step else 0.0) for rate in base)


def _lr_range_test(
    base: Rates,
    *,
    lr_range_test_min_lr: float | Sequence[float] = 1e-3,
    lr_range_test_step_size: int = 2000,
    lr_range_test_step_rate: float = 1.0,
    lr_range_test_staircase: bool = False,
) -> Callable[[int], Rates]:
    low = _per_group(lr_range_test_min_lr, base)

    def lr(step: int) -> Rates:
        interval = step / lr_range_test_step_size
        if lr_range_test_staircase:
            interval = math.floor(interval)
        return tuple(rate * (1 + lr_range_test_step_rate * interval) for rate in low)

    return lr


def _one_cycle(
    base: Rates,
    *,
    cycle_min_lr: float | Sequence[float],
    cycle_max_lr: float | Sequence[float],
    has_betas: bool,
    decay_lr_rate: float = 0.0,
    decay_step_size: int = 0,
    cycle_momentum: bool = True,
    cycle_min_mom: float | Sequence[float] = 0.8,
    cycle_max_mom: float | Sequence[float] = 0.9,
    decay_mom_rate: float = 0.0,
    **shape: Any,
) -> Schedule:
    """Up and down once, then decay. Momentum runs against the rate, with a `beta2` of 0.99."""
    low, high = _per_group(cycle_min_lr, base), _per_group(cycle_max_lr, base)
    least, most = _per_group(cycle_min_mom, base), _per_group(cycle_max_mom, base)
    height, total = _cycle(**shape)

    def factor(step: int, rate: float) -> float:
        """The growth by the decay phase; 1 before it, or where it does not decay."""
        if step - 1 < total or not decay_step_size:
            return 1.0
        return 1 + rate * (step - total) / decay_step_size

    def share(step: int) -> float:
        return height(step) if 1 <= step <= total else 0.0

    def lr(step: int) -> Rates:
        return tuple(
            rate / factor(step, decay_lr_rate) for rate in _between(low, high, share(step))
        )

    def betas(step: int) -> tuple[Betas, ...]:
        first = least if step == 0 else _between(most, least, share(step))
        return tuple((beta * factor(step, decay_mom_rate), 0.99) for beta in first)

    return Schedule(lr, betas if cycle_momentum and has_betas else None)


def _cycle(
    *,
    cycle_first_step_size: float = 2000,
    cycle_second_step_size: float | None = None,
    cycle_first_stair_count: int = 0,
    cycle_second_stair_count: int | None = None,
) -> tuple[Callable[[int], float], float]:
    """How high the cycle stands at a step, from 0 to 1, and how many steps it has."""
    up = cycle_first_step_size
    down = up if cycle_second_step_size is None else cycle_second_step_size
    stairs_up = cycle_first_stair_count
    stairs_down = stairs_up if cycle_second_stair_count is None else cycle_second_stair_count

    def height(step: int) -> float:
        place = step % (up + down)
        rising = place <= up
        share = place / up if rising else (up + down - place) / down
        stairs = stairs_up if rising else stairs_down
        return math.floor(share * stairs) / stairs if stairs > 0 else share

    return height, up + down


SCHEDULERS: dict[str, Callable[..., Any]] = {
    "WarmupLR": _warmup_lr,
    "WarmupDecayLR": _warmup_decay_lr,
    "WarmupCosineLR": _warmup_cosine_lr,
    "OneCycle": _one_cycle,
    "LRRangeTest": _lr_range_test,
}
