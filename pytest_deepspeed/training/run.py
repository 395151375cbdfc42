"""The reference training on this rank, with what the checks need to know of all ranks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.processes import progress
from pytest_deepspeed.training import checks
from pytest_deepspeed.training.quiet import quietly
from pytest_deepspeed.values import modes
from reference_training.record import Record

#: Images of the batch that every rank is given alike at the end.
_COMMON_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training did.

    Attributes:
        ds_config: the config it ran under.
        record: this rank's record.
        grad_norms: the gradient norm of each step, for each rank.
        common_loss: the loss of the same images after training, for each rank. Equal weights give
            equal losses, so a rank whose weights drifted is seen, at every ZeRO stage.
    """

    ds_config: Mapping[str, Any]
    record: Record
    grad_norms: tuple[tuple[float, ...], ...]
    common_loss: tuple[float, ...]

    def check(self) -> list[str]:
        """What is wrong with it; empty where nothing is."""
        record = self.record
        found = (
            checks.loss_falls(record.loss),
            checks.ranks_agree("the loss of the same images after training", self.common_loss),
            checks.ranks_agree("the gradient norm", self.grad_norms),
            checks.optimizer_stepped(
                record.optimizer_steps,
                record.skipped_steps,
                len(record.loss),
                scaled=modes.scales_loss(self.ds_config),
            ),
        )
        return [finding for finding in found if finding]

    def properties(self) -> list[tuple[str, Any]]:
        """Flat values for the test's report, its JUnit file and the summary."""
        record = self.record
        return [
            ("ds_mode", modes.case_id(self.ds_config)),
            ("ds_world_size", record.world_size),
            ("ds_steps", len(record.loss)),
            ("ds_loss_first", record.loss[0]),
            ("ds_loss_last", record.loss[-1]),
            ("ds_samples_per_second", record.samples_per_second),
            ("ds_data", record.data),
        ]


def train(ds_config: Mapping[str, Any], *, data: str, steps: int, seed: int, width: int) -> Run:
    """Trains the reference net on this rank; every rank of the world calls it alike.

    Args:
        data: what `reference_training.data.load` takes.
        steps: optimizer steps.
        seed: of weights, order of images and synthetic images.
        width: factor of all hidden widths of the net.
    """
    from reference_training.train import build_engine, run_steps
    from reference_training.workload import Images

    images = Images(dataset(data, seed), width=width, seed=seed)
    progress.phase("training", ds_config, steps)
    with quietly():
        engine = build_engine(images, ds_config, seed=seed)
        try:
            record = run_steps(engine, images, steps=steps, on_step=progress.stepped)
            common = _common_loss(engine, images)
        finally:
            engine.destroy()
    return Run(
        ds_config=ds_config,
        record=record,
        grad_norms=tuple(_gather(tuple(record.grad_norm))),
        common_loss=tuple(_gather(common)),
    )


@functools.cache
def dataset(data: str, seed: int) -> Any:
    """The images, loaded once in a process: the agent loads them and its ranks have them by fork.

    Args:
        data: what `reference_training.data.load` takes.
        seed: of synthetic images.
    """
    from reference_training.data import load

    return load(data, seed=seed)


def _common_loss(engine: Any, images: Any) -> float:
    import torch

    dataset = images.dataset
    engine.eval()
    with torch.no_grad():
        batch = dataset.batch(torch.arange(min(_COMMON_BATCH, len(dataset))))
        return float(images.loss(engine, batch))


def _gather(value: Any) -> list[Any]:
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
