"""Trains a user's Lightning code on the ranks of a fresh world, watched at each step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.training.lightning.capture import Capture, swap_to
from pytest_deepspeed.training.lightning.replay import Replay
from pytest_deepspeed.training.lightning.target import Target
from pytest_deepspeed.training.train import Trained

if TYPE_CHECKING:
    from pytest_deepspeed.training.memory.observe import Meter
    from pytest_deepspeed.training.trial import Trial


def train(trial: Trial, meter: Meter) -> Trained:
    """Runs the user's code up to the end of its `fit`; every rank calls it alike.

    Args:
        trial: what to train; its ``ds_config`` says where to swap to.
        meter: of `memory.observe.start`.

    Raises:
        WorkloadError: the code cannot be checked.
    """
    from pytest_deepspeed.training.lightning.looking import Observer

    observer = Observer(trial.lightning, trial.steps, meter)
    capture = Capture(
        Target(trial.lightning),
        data=trial.data,
        seed=trial.seed,
        steps=trial.steps + 1,
        callbacks=[observer],
    )

    def fit(trainer: Any, module: Any, real_fit: Callable[..., None]) -> None:
        swap_to(trainer.strategy, trial.ds_config)
        observer.replay = Replay(trial.lightning, copy.deepcopy(module))
        real_fit()

    try:
        capture.run(fit)
    finally:
        observer.destroy()
    return Trained(
        workload=observer.replay,
        record=observer.compared,
        history=observer.history,
        digests=tuple(observer.watch.digests),
        engagement=observer.engagement,
        memory=observer.memory,
        effective=observer.effective,
    )
