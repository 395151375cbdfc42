"""What a Lightning training is: found out on ranks, before the first check of it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

from pytest_deepspeed.training.lightning import optimizer as optimizers
from pytest_deepspeed.training.lightning.capture import Capture, Fitted
from pytest_deepspeed.training.lightning.target import Target
from pytest_deepspeed.training.quiet import quietly
from pytest_deepspeed.training.trial import STEPS
from pytest_deepspeed.values import plain


@dataclasses.dataclass(frozen=True)
class Described:
    """A user's training, up to where its engine would be made.

    Attributes:
        ds_config: what Lightning would give to `deepspeed.initialize`, with an ``optimizer`` block
            in the words of a config for the optimizer that the module brings.
        strategy_config: the same without the block.
        changes: what was changed so that it runs here, a sentence each.
        uncovered: why no twin can be made of it; empty where one can.
    """

    ds_config: dict[str, Any]
    strategy_config: dict[str, Any]
    changes: tuple[str, ...]
    uncovered: str


def describe(target: str, *, data: str, seed: int, rank: int) -> str | None:
    """Runs the user's code to its `fit`, on every rank alike; no engine is made.

    Returns:
        a `Described` as JSON on rank 0, ``None`` on the others.

    Raises:
        WorkloadError: the code cannot be checked.
    """
    capture = Capture(Target(target), data=data, seed=seed, steps=STEPS + 1, callbacks=[])
    found: list[Described] = []

    def fit(trainer: Any, module: Any, real_fit: Any) -> None:
        strategy = trainer.strategy

        @contextlib.contextmanager
        def no_sharding() -> Iterator[None]:
            yield

        def set_up(_trainer: Any) -> None:
            strategy._init_config_if_needed()
            block, uncovered = _optimizer(module)
            own = copy.deepcopy(strategy.config)
            config = dict(own)
            if block and "optimizer" not in config:
                config["optimizer"] = block
            why = uncovered or _dropout(module)
            found.append(Described(config, own, tuple(capture.changes), why))
            raise Fitted

        # Neither parameters nor an engine are made: what DeepSpeed needs for them (ops, a disk) is
        # looked at when the config is known.
        strategy.model_sharded_context = no_sharding
        strategy.setup = set_up
        real_fit()

    with quietly():
        capture.run(fit)
    return plain.dump(found[0]) if rank == 0 else None


def _optimizer(module: Any) -> tuple[dict[str, Any], str]:
    """The block of its optimizer, and why there is no twin."""
    if not module.automatic_optimization:
        return {}, "the module steps its optimizer itself (automatic_optimization is False)"
    try:
        found, schedule = optimizers.configured(module)
    except ValueError as error:
        return {}, str(error)
    block = optimizers.block_of(found)
    if (
        schedule is not None
        and "metrics" in inspect.signature(schedule["scheduler"].step).parameters
    ):
        kind = type(schedule["scheduler"]).__name__
        return block, f"the schedule {kind} depends on what is measured"
    return block, ""


def _dropout(module: Any) -> str:
    """Why a module that drops out has no twin; empty where it does not."""
    for name, layer in module.named_modules():
        if "Dropout" in type(layer).__name__ and getattr(layer, "p", 0) > 0:
            return f"{name} drops out, and plain torch draws other numbers: set its p to 0 here"
    return ""
