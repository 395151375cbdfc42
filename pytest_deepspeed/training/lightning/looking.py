"""The callbacks that look at a training of Lightning's; imports Lightning, so on ranks alone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.processes import progress
from pytest_deepspeed.training import effective, state
from pytest_deepspeed.training.checkpoint import snapshot
from pytest_deepspeed.training.checkpoint.evidence import Snapshot
from pytest_deepspeed.training.engagement import observe
from pytest_deepspeed.training.engagement.evidence import Gradients, RankEngagement
from pytest_deepspeed.training.lightning.capture import Fitted
from pytest_deepspeed.training.lightning.replay import TOLD, Replay
from pytest_deepspeed.training.memory.evidence import RankMemory
from pytest_deepspeed.training.train import Watch, tensors_of
from reference_training.lightning_record import StepRecorder, engine_of

if TYPE_CHECKING:
    from pytest_deepspeed.training.memory.observe import Meter
    from pytest_deepspeed.training.parity.compare import History
    from reference_training.record import Record


class _Looker(StepRecorder):
    """A callback that holds on to the engine, which Lightning drops when `fit` ends."""

    def __init__(self, data: str = "", **hooks: Any) -> None:
        super().__init__(data, **hooks)
        self._engine: Any = None
        self._trainer: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The engine is there, and nothing is trained yet."""
        super().on_train_start(trainer, pl_module)
        self._trainer, self._engine = trainer, engine_of(trainer)

    def destroy(self) -> None:
        """Ends the engine, whether the training came to its end or not."""
        if self._engine is not None:
            self._engine.destroy()


class Observer(_Looker):
    """Looks at the engine before and after each step, as the checks' own loop does.

    Args:
        data: what to call what is trained on.
        steps: optimizer steps that are compared; one more is measured.
        meter: of `memory.observe.start`.

    Attributes:
        replay: the training, for its twin.
        record, history, watch: of the steps that are compared.
        engagement, memory: of the measured one.
        effective: what DeepSpeed made of the config.
    """

    replay: Replay
    watch: Watch
    history: History
    compared: Record
    engagement: RankEngagement
    memory: RankMemory
    effective: dict[str, Any]
    _gradients: Gradients

    def __init__(self, data: str, steps: int, meter: Meter) -> None:
        super().__init__(data, before_update=self._before, on_step=self._after)
        self._steps = steps
        self._meter = meter
        self._measuring = contextlib.ExitStack()
        self._measured = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Notes what the engine starts from."""
        super().on_train_start(trainer, pl_module)
        self.effective = effective.effective(self._engine)
        self.watch = Watch(self._engine)
        self.replay.trainer = {name: getattr(trainer, name) for name in TOLD}
        self.replay.start = state.full_parameters(self._engine)
        self._meter.ignore(list(self.replay.start.values()))

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch for the twin; measures from the start of the last step."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        step = trainer.global_step
        if step < self._steps:
            kept = copied(batch)
            self._meter.ignore(tensors_in(kept))
            self.replay.keep(kept, batch_idx, step=step, epoch=trainer.current_epoch)
        elif not self._measured:
            self._measured = True
            self._measuring.enter_context(self._meter.step())

    def destroy(self) -> None:
        """Ends the measurement too."""
        self._measuring.close()
        super().destroy()

    def _before(self, number: int) -> None:
        if number < self._steps:
            self.watch.before_update(number)
        else:
            self._meter.look(self._engine)
            self._gradients = observe.before_step(self._engine)

    def _after(self, number: int, step: Any) -> None:
        if number < self._steps:
            self.watch.after_step(number, step)
        if number == self._steps - 1:
            self.compared = self.made(self._engine)
            self.history = self.watch.history(self.compared)
            self._meter.ignore(tensors_of(self.history))
        if number == self._steps:
            self._measuring.close()
            self.engagement = observe.observe(self._engine, self._gradients)
            self.memory = self._meter.finish(self._engine)


class Snapshots(_Looker):
    """Takes snapshots of the engine: what was loaded, and what there is at the end.

    Args:
        on_step: called with Trainer, engine and number after each step.
        on_batch: called with Trainer and batch before each forward pass.
        stops_loaded: whether the training ends before its first step.

    Attributes:
        loaded: before the first step.
        at_end: after the last.
    """

    loaded: Snapshot
    at_end: Snapshot

    def __init__(
        self,
        on_step: Callable[[Any, Any, int], None] | None = None,
        on_batch: Callable[[Any, Any], None] | None = None,
        *,
        stops_loaded: bool = False,
    ) -> None:
        super().__init__(on_step=self._stepped)
        self._told, self._on_batch, self._stops = on_step, on_batch, stops_loaded

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """What a checkpoint brought is there."""
        super().on_train_start(trainer, pl_module)
        self.loaded = snapshot.take(self._engine)
        if self._stops:
            raise Fitted

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hands the batch on."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._on_batch is not None:
            self._on_batch(trainer, batch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last step is taken."""
        super().on_train_end(trainer, pl_module)
        self.at_end = snapshot.take(self._engine)

    def _stepped(self, number: int, step: Any) -> None:
        progress.stepped(number, step)
        if self._told is not None:
            self._told(self._trainer, self._engine, number)


def copied(batch: Any) -> Any:
    """A copy on the CPU of a batch that the training may write to."""
    import torch
    from lightning_fabric.utilities.apply_func import move_data_to_device

    return move_data_to_device(copy.deepcopy(batch), torch.device("cpu"))


def tensors_in(batch: Any) -> list[Any]:
    """The tensors of a batch, however it is nested."""
    import torch
    from torch.utils import _pytree

    leaves, _ = _pytree.tree_flatten(batch)
    return [leaf for leaf in leaves if torch.is_tensor(leaf)]
