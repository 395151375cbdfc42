"""Stands between a user's code and Lightning's Trainer, so that the code runs as it is written.

The first Trainer gets what the world of the test has (devices, nodes, on a CPU our strategy in
place of Lightning's), no logger, no progress bar and no checkpoints of its own; its first `fit` is
handed over, and the code ends there. What was changed is kept, to be said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_deepspeed.training.lightning.target import Target
from pytest_deepspeed.training.workload.contract import WorkloadError

#: Callbacks that write or show, and that Lightning refuses where it is told to do neither.
_DROPPED = (
    "Checkpoint",
    "ProgressBar",
    "ModelSummary",
    "LearningRateMonitor",
    "DeviceStatsMonitor",
)

_HALF_ON_CPU = {"16": "bf16-mixed", "16-mixed": "bf16-mixed", "16-true": "bf16-true"}

#: ``fit(trainer, module, **data)``, with what the code gave to `Trainer.fit`.
Fit = Callable[..., None]


class Fitted(BaseException):
    """Ends the user's code behind `fit`. No Exception, since code may catch those."""


class Capture:
    """Runs a target up to its first `fit`.

    Args:
        target: the user's code.
        data: what stands in for CIFAR10 where the code does not find it, as
            `reference_training.data.load` takes it.
        seed: of all generators before it starts, and of synthetic images.
        steps: optimizer steps.
        callbacks: more for the Trainer.

    Attributes:
        changes: what was changed so that the code runs here, a sentence each.
    """

    def __init__(
        self, target: Target, *, data: str, seed: int, steps: int, callbacks: list[Any]
    ) -> None:
        self._target = target
        self._data = data
        self._seed = seed
        self._steps = steps
        self._callbacks = callbacks
        self.changes: list[str] = []
        self._end: BaseException | None = None

    def run(self, fit: Fit) -> None:
        """Runs it.

        Args:
            fit: called in place of `Trainer.fit`, which it may call itself.

        Raises:
            WorkloadError: there is no such code, it does not train with DeepSpeed, or not at all.
        """
        from pytest_deepspeed.training.workload.adapter import seed_all
        from reference_training.compat import import_torchvision

        import_torchvision()  # Lightning imports it through torchmetrics

        seed_all(self._seed)
        with self._instead_of_trainer(fit), self._stand_in(), contextlib.suppress(Fitted):
            self._target.run()
        if self._end is None:
            raise WorkloadError(
                f"{self._target.text} ended without a call of Trainer.fit: there is no training to"
                " check. Does it call it below if __name__ == '__main__'?"
            )
        if not isinstance(self._end, Fitted):  # the code has caught it
            raise self._end

    @contextlib.contextmanager
    def _instead_of_trainer(self, fit: Fit) -> Iterator[None]:
        import pytorch_lightning as pl

        init, real_fit = pl.Trainer.__init__, pl.Trainer.fit

        def made(trainer: Any, **given: Any) -> None:
            init(trainer, **self._arguments(given))

        def fitted(trainer: Any, model: Any, *data: Any, **named: Any) -> None:
            names = ("train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path")
            named |= dict(zip(names, data, strict=False))
            named.pop("ckpt_path", None)  # a training from its start
            try:
                fit(trainer, model, lambda **more: real_fit(trainer, model, **named, **more))
                raise Fitted  # noqa: TRY301 (it ends as one that stops within)
            except BaseException as error:
                self._end = error
                raise

        pl.Trainer.__init__, pl.Trainer.fit = made, fitted  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            pl.Trainer.__init__, pl.Trainer.fit = init, real_fit  # type: ignore[method-assign]

    def _arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """What the Trainer gets."""
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        kept = [c for c in _listed(given.get("callbacks")) if not _is_dropped(c)]
        fixed = {
            "devices": local,
            "num_nodes": int(os.environ["WORLD_SIZE"]) // local,
            "strategy": self._strategy(given.get("strategy", "auto")),
            "precision": self._precision(given.get("precision")),
            "callbacks": [*kept, *self._callbacks],
            "max_steps": self._steps,
            "max_epochs": -1,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
        }
        if _on_cpu():
            fixed["accelerator"] = "cpu"
        dropped = ("fast_dev_run", "max_time", "profiler", "barebones", "min_epochs", "min_steps")
        return {k: v for k, v in given.items() if k not in dropped} | fixed

    def _strategy(self, given: Any) -> Any:
        from pytorch_lightning.strategies import DeepSpeedStrategy, StrategyRegistry

        from reference_training.lightning_strategy import DeepSpeedCPUStrategy

        shown = f"strategy={given!r}" if isinstance(given, str) else type(given).__name__
        strategy = given
        if isinstance(given, str) and given in StrategyRegistry:
            strategy = StrategyRegistry.get(given)
        if not isinstance(strategy, DeepSpeedStrategy):
            raise WorkloadError(
                f"{self._target.text} makes a Trainer with {shown}, which is not DeepSpeed's:"
                " the checks are of a DeepSpeedStrategy"
            )
        if _on_cpu() and not isinstance(strategy, DeepSpeedCPUStrategy):
            self.changes.append(
                f"{shown} -> DeepSpeedCPUStrategy with gloo, since Lightning refuses DeepSpeed on"
                " a CPU."
            )
            strategy = DeepSpeedCPUStrategy.of(strategy)
        return strategy

    def _precision(self, given: Any) -> Any:
        if not _on_cpu() or str(given) not in _HALF_ON_CPU:
            return given
        self.changes.append(
            f"precision {given} -> {_HALF_ON_CPU[str(given)]} (a CPU does not train in fp16)."
        )
        return _HALF_ON_CPU[str(given)]

    @contextlib.contextmanager
    def _stand_in(self) -> Iterator[None]:
        """Images for a CIFAR10 that is not there; nothing is downloaded."""
        from reference_training.compat import import_torchvision

        try:
            cifar10 = import_torchvision().datasets.CIFAR10
        except ImportError:
            yield
            return
        real = cifar10.__init__

        def init(dataset: Any, root: Any, train: bool = True, *more: Any, **named: Any) -> None:
            named.pop("download", None)
            try:
                real(dataset, root, train, *more[:2], **named)
            except RuntimeError as error:
                if "not found" not in str(error):
                    raise
                self._fill(dataset, root, train)

        cifar10.__init__ = init
        try:
            yield
        finally:
            cifar10.__init__ = real

    def _fill(self, dataset: Any, root: Any, train: bool) -> None:
        from reference_training import data

        images = data.load(self._data, seed=self._seed, train=train)
        dataset.data = images.images.numpy()
        dataset.targets = images.labels.tolist()
        change = f"CIFAR10 is not in {str(root)!r}: {images.description} in its place."
        if change not in self.changes:
            self.changes.append(change)


def swap_to(strategy: Any, ds_config: Mapping[str, Any]) -> None:
    """Has a strategy swap to the directory of a config that is trained here, not to its own."""
    there = ds_config.get("zero_optimization") or {}
    own = (strategy.config or {}).get("zero_optimization") or {}
    for key, block in own.items():
        path = there[key].get("nvme_path") if isinstance(there.get(key), dict) else None
        if isinstance(block, dict) and path is not None:
            block["nvme_path"] = path


def _on_cpu() -> bool:
    return os.environ.get("DS_ACCELERATOR") == "cpu"


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _is_dropped(callback: Any) -> bool:
    names = [cls.__name__ for cls in type(callback).__mro__]
    return any(name.endswith(_DROPPED) for name in names)
