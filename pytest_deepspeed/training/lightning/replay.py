"""A Lightning training as a workload: the module's own step on the batches that its Trainer had."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.training.lightning import optimizer as optimizers
from pytest_deepspeed.training.twin.schedules import Schedule

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclasses.dataclass
class Replay:
    """What was trained, for plain torch to train again.

    Attributes:
        description: what to call it.
        template: the user's LightningModule as `fit` got it, which has met no Trainer.
        start: the weights that the engine started from, by name.
        batches: of this rank, for each optimizer step its micro-batches, each with its number.
        epochs: the epoch of each step.
        trainer: what the Trainer said of `TOLD`.
    """

    description: str
    template: Any
    start: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    batches: list[list[tuple[Any, int]]] = dataclasses.field(default_factory=list)
    epochs: list[int] = dataclasses.field(default_factory=list)
    trainer: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    #: It has none of the trap model's.
    traits: tuple[str, ...] = ()

    def keep(self, batch: Any, number: int, *, step: int, epoch: int) -> None:
        """Adds a micro-batch.

        Args:
            batch: a copy.
            number: what `training_step` is told that it is.
            step: the optimizer step that it is of.
            epoch: of the Trainer.
        """
        if step == len(self.batches):
            self.batches.append([])
            self.epochs.append(epoch)
        self.batches[step].append((batch, number))

    def model(self) -> nn.Module:
        """A new module, with what its hook makes, and the weights that the engine started from."""
        import torch

        module = self._fresh()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name in self.start:
                    parameter.copy_(self.start[name])
        made: nn.Module = module.train()
        return made

    def parameter_groups(self, model: Any) -> list[dict[str, Any]]:
        """Those of the optimizer that the module configures."""
        found, _ = optimizers.configured(model)
        return optimizers.groups_of(found)

    def schedule(self) -> Schedule:
        """The rates that the module's own schedule sets, on an optimizer that takes no step."""
        found, schedule = optimizers.configured(self._fresh())
        rates: list[tuple[float, ...]] = []

        def lr(step: int) -> tuple[float, ...]:
            while len(rates) <= step:
                if rates:
                    self._advance(schedule, len(rates))
                rates.append(tuple(float(group["lr"]) for group in found.param_groups))
            return rates[step]

        return Schedule(lr)

    def _fresh(self) -> Any:
        """A module that is told what the run's Trainer said, and has made its layers."""
        module = copy.deepcopy(self.template)
        module.__class__ = _told(type(module))
        module.told_trainer = self.trainer
        return built(module)

    def _advance(self, schedule: Mapping[str, Any] | None, step: int) -> None:
        """What Lightning does to the schedule between a step and the one before it."""
        if schedule is None:
            return
        if schedule["interval"] == "step":
            due = step % schedule["frequency"] == 0
        else:
            epoch = self.epochs[step]
            due = epoch != self.epochs[step - 1] and epoch % schedule["frequency"] == 0
        if due:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                schedule["scheduler"].step()

    def micro_batch(self, *, step: int, micro_step: int, **_: int) -> tuple[Any, int, int, int]:
        """The batch that the Trainer had then, its number, the epoch and the step."""
        data, number = self.batches[step][micro_step]
        return data, number, self.epochs[step], step

    def loss(self, model: Any, batch: tuple[Any, int, int, int]) -> Tensor:
        """What the module's `training_step` returns, in fp32."""
        data, number, model.told_epoch, model.told_step = batch
        first = next(model.parameters())
        arguments = [_like(data, first.dtype)]
        if "batch_idx" in inspect.signature(model.training_step).parameters or _takes_two(model):
            arguments.append(number)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*self.log.*")  # which there is no Trainer for
            out = model.training_step(*arguments)
        loss: Tensor = out["loss"] if isinstance(out, Mapping) else out
        return loss.float()


#: What schedules are made of.
TOLD = ("estimated_stepping_batches", "max_steps", "max_epochs", "num_training_batches")

_UNTOLD = {"told_epoch": 0, "told_step": 0, "told_trainer": {}}


class NoTwin(Exception):
    """A module that plain torch cannot train: the text says why."""


class _StandIn:
    """What the twin's module finds as its Trainer: one that accumulates nothing, on rank 0.

    Plain torch divides the loss by the micro-batches itself, once.
    """

    accumulate_grad_batches = 1
    is_global_zero = True
    global_rank = local_rank = 0
    training = True
    sanity_checking = False

    def __init__(self, module: Any) -> None:
        self.__dict__.update(module.told_trainer)
        self.current_epoch, self.global_step = module.told_epoch, module.told_step

    def __getattr__(self, name: str) -> Any:
        raise NoTwin(f"the module asks its Trainer for {name}, and the twin has none")


def _told(kind: Any) -> Any:
    """The class of a module that is told what it would ask its Trainer for."""
    asked = {
        "trainer": property(_StandIn, lambda *_: None),
        "current_epoch": property(lambda module: module.told_epoch),
        "global_step": property(lambda module: module.told_step),
    }
    return type(kind.__name__, (kind,), {**_UNTOLD, **asked})


def built(module: Any) -> Any:
    """A module after the hook in which it makes its layers, without a strategy around it."""
    hook = hook_of(module)
    if hook:
        getattr(module, hook)()
    return module


def hook_of(module: Any) -> str:
    """The hook that a module overrides to make its layers; empty where it has none."""
    from pytorch_lightning import LightningModule

    for name in ("configure_sharded_model", "configure_model"):
        if getattr(type(module), name, None) is not getattr(LightningModule, name, None):
            return name
    return ""


def _takes_two(model: Any) -> bool:
    return len(inspect.signature(model.training_step).parameters) > 1


def _like(data: Any, dtype: Any) -> Any:
    """Floating-point tensors in the dtype that the model computes in, as Lightning casts them."""
    import torch

    if torch.is_tensor(data):
        return data.to(dtype) if data.is_floating_point() else data
    if isinstance(data, Mapping):
        return type(data)({key: _like(value, dtype) for key, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(_like(value, dtype) for value in data))
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return type(data)(_like(value, dtype) for value in data)  # type: ignore[call-arg]
    return data
