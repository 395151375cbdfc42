"""What a mutant is: one fault that is put into DeepSpeed in the process of a rank."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from pytest_deepspeed.training.matrix import Device as Offload
from pytest_deepspeed.training.matrix import DType, Mode, Optimizer

#: Where DeepSpeed keeps what most mutants patch; names, since the controller imports no DeepSpeed.
ENGINE = "deepspeed.runtime.engine:DeepSpeedEngine"
ZERO_1_2 = "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer"
ZERO_3 = "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3"
ADAM = "deepspeed.ops.adam:FusedAdam"
CPU_ADAM = "deepspeed.ops.adam:DeepSpeedCPUAdam"

Phase = Literal["training", "checkpoint"]


class Damage:
    """Puts one fault into a rank, and counts how often the fault was done.

    Ranks are fresh processes, so nothing is ever put back.
    """

    def __init__(self) -> None:
        self.reached = 0

    def done(self) -> None:
        """The faulty code ran: a mutant that is never reached is an error of the mutant."""
        self.reached += 1

    def around(self, owner: str, name: str, faulty: Callable[..., Any]) -> None:
        """Replaces ``owner.name``: calls become ``faulty(original, *args, **kwargs)``.

        Args:
            owner: a module, or ``module:Class``.
        """
        place = pkgutil.resolve_name(owner)
        original = getattr(place, name)

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return faulty(original, *args, **kwargs)

        setattr(place, name, replaced)

    def answer(self, owner: str, name: str, value: Any) -> None:
        """Makes the method ``owner.name`` return ``value`` without running."""

        def instead(_original: Any, *_args: Any, **_kwargs: Any) -> Any:
            self.done()
            return value

        self.around(owner, name, instead)

    def configure(self, change: Callable[[Any], None]) -> None:
        """Changes the config that DeepSpeed has parsed, before anything is built from it."""

        def parse(original: Any, engine: Any, *args: Any, **kwargs: Any) -> None:
            original(engine, *args, **kwargs)
            change(engine._config)
            self.done()

        self.around(ENGINE, "_configure_with_arguments", parse)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault, and a mode in which it bites.

    Attributes:
        name: stable; the name of the function that does the damage.
        fault: one sentence.
        mode: the mode to run it in.
        optimizer: of the config.
        phase: what shows it: a training against its twin, or a checkpoint that is saved and loaded.
        changes: of the matrix's config of the mode, by top-level key; ``None`` takes a key away.
    """

    name: str
    fault: str
    mode: Mode
    optimizer: Optimizer
    phase: Phase
    changes: Mapping[str, Any]
    damage: Callable[[Damage], None]

    def apply(self) -> Damage:
        """Damages DeepSpeed in this process, before an engine is built."""
        damage = Damage()
        self.damage(damage)
        return damage


#: All mutants by name, in the order in which their modules define them.
MUTANTS: dict[str, Mutant] = {}


def mutant(
    stage: int,
    dtype: DType = "fp32",
    *,
    optimizer: Optimizer = "AdamW",
    gas: int = 1,
    offload_optimizer: Offload = "none",
    offload_param: Offload = "none",
    phase: Phase = "training",
    **changes: Any,
) -> Callable[[Callable[[Damage], None]], Callable[[Damage], None]]:
    """Registers a function as a mutant; its docstring is the fault."""
    mode = Mode(stage, offload_optimizer, offload_param, dtype, gas)

    def register(damage: Callable[[Damage], None]) -> Callable[[Damage], None]:
        fault = " ".join((damage.__doc__ or "").split())
        name = damage.__name__
        MUTANTS[name] = Mutant(name, fault, mode, optimizer, phase, changes, damage)
        return damage

    return register


@contextlib.contextmanager
def hyperparameters(group: dict[str, Any], **values: Any) -> Iterator[None]:
    """A parameter group with other values for a while, so that only what it did shows the fault."""
    before = dict(group)
    group.update(values)
    try:
        yield
    finally:
        group.update({name: before[name] for name in values})
