"""What a Lightning training did, as the record of a plain one."""

from __future__ import annotations

import time
from typing import Any

from reference_training.compat import import_torchvision

import_torchvision()  # Lightning imports it through torchmetrics

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from deepspeed.accelerator import get_accelerator  # noqa: E402

from reference_training import measure  # noqa: E402
from reference_training.record import Record, Step  # noqa: E402
from reference_training.train import BeforeUpdate, OnStep, record_of  # noqa: E402


class StepRecorder(pl.Callback):
    """Watches each optimizer step of a `Trainer` with a DeepSpeed strategy.

    Args:
        data: What is trained on, for the record.
        before_update: As of `reference_training.train.run_steps`.
        on_step: As of `reference_training.train.run_steps`.

    Attributes:
        record: Of the whole training on this rank; there when `fit` has ended.
    """

    record: Record

    def __init__(
        self,
        data: str = "",
        *,
        before_update: BeforeUpdate | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.data = data
        self.before_update = before_update
        self.on_step = on_step
        self._done: list[Step] = []
        self._losses: list[Any] = []
        self._start = 0.0
        self._first = 0
        self._updates = False
        self._lr = 0.0
        self._norm: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes where a resumed training starts."""
        del pl_module
        self._first = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock of a step."""
        del trainer, pl_module, batch, batch_idx
        if not self._losses:
            self._start = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Looks at what the coming update takes. Lightning calls it after each micro-batch."""
        del pl_module, optimizer
        engine = engine_of(trainer)
        self._updates = bool(engine.is_gradient_accumulation_boundary())
        if not self._updates:
            return
        if self.before_update is not None:
            self.before_update(self._first + len(self._done))
        self._lr = float(engine.get_lr()[0])
        self._norm = measure.plain_gradient_norm(engine)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ends a step with its last micro-batch."""
        del pl_module, batch, batch_idx
        # What DeepSpeed is given: Lightning has divided it by `accumulate_grad_batches`, and
        # DeepSpeed divides it again (loops/optimization/automatic.py `_training_step`).
        self._losses.append(outputs["loss"].detach())
        if not self._updates:
            return
        engine = engine_of(trainer)
        norm = engine.get_global_grad_norm() if self._norm is None else self._norm
        loss = float(torch.stack(self._losses).mean())
        get_accelerator().synchronize()
        step_time = time.perf_counter() - self._start
        applied = norm is not None and engine.was_step_applied()
        self._losses = []
        self._done.append(
            Step(
                loss=loss,
                lr=self._lr,
                grad_norm=float(norm) if applied and norm is not None else None,
                step_time=step_time,
                samples_per_second=engine.train_batch_size() / step_time,
            )
        )
        if self.on_step is not None:
            self.on_step(self._first + len(self._done) - 1, self._done[-1])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the record; collective."""
        del pl_module
        self.record = self.made(engine_of(trainer))

    def made(self, engine: Any) -> Record:
        """Return the record of the steps so far; collective.

        Raises:
            ValueError: there was none.
        """
        if not self._done:
            raise ValueError("no optimizer step was taken")
        return record_of(engine, self._done, data=self.data, start_step=self._first)


def engine_of(trainer: pl.Trainer) -> Any:
    """Return DeepSpeed's engine, which Lightning makes when `fit` begins."""
    strategy: Any = trainer.strategy
    return strategy.deepspeed_engine
