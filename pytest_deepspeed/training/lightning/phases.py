"""Saves a Lightning training by its Trainer, and loads it in fresh processes by another one's.

A world that loads starts from the weights of another seed. It trains on with the batches that the
saving world had, since Lightning does not save where a loader was.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.processes import progress
from pytest_deepspeed.training.checkpoint import snapshot
from pytest_deepspeed.training.checkpoint.equivalence import MORE
from pytest_deepspeed.training.checkpoint.evidence import (
    CheckpointEvidence,
    Resumed,
    Saved,
    Snapshot,
    StateFile,
)
from pytest_deepspeed.training.checkpoint.limits import stage_of, why_not
from pytest_deepspeed.training.checkpoint.rounding import cut
from pytest_deepspeed.training.lightning.capture import Capture, swap_to
from pytest_deepspeed.training.lightning.replay import Replay
from pytest_deepspeed.training.lightning.target import Target
from pytest_deepspeed.training.quiet import quietly

if TYPE_CHECKING:
    from pytest_deepspeed.training.lightning.looking import Snapshots
    from pytest_deepspeed.training.trial import Trial

#: The directories of the two checkpoints.
OLDER, LATER = "older", "later"


def equivalence(run: Callable[..., list[Any]], trial: Trial, directory: Path) -> CheckpointEvidence:
    """Trains and saves in one world, loads in a second one of the same size.

    Args:
        run: starts a world, as of `training.checkpoint.equivalence.Run`.
        trial: a Lightning one.
        directory: an existing, empty one.
    """
    if reason := why_not(trial.ds_config, "resume"):
        return CheckpointEvidence(saved=(), resumed=(), skipped={"resume": reason})
    given = {
        "trial": dataclasses.replace(trial, steps=cut(trial.ds_config, MORE)),
        "directory": str(directory),
    }
    saved: list[Saved] = run(save, world_size=trial.world_size, **given)
    resumed: list[Resumed] = run(resume, world_size=trial.world_size, **given)
    reason = why_not(trial.ds_config, "consolidate")
    skipped = {"consolidate": reason} if reason else {}
    return CheckpointEvidence(tuple(saved), tuple(resumed), skipped)


@quietly()
def save(trial: Trial, directory: str, rank: int) -> Saved:
    """Trains ``trial.steps``, saves, trains two steps more, saves again."""
    import torch

    from pytest_deepspeed.training.lightning.looking import copied

    at = trial.steps
    progress.phase("saving", trial.ds_config, at + MORE)
    found: dict[str, Snapshot] = {}
    batches: list[Any] = []

    def on_step(trainer: Any, engine: Any, number: int) -> None:
        for name, last in ((OLDER, at - 1), (LATER, at + MORE - 1)):
            if number == last:
                found[name] = snapshot.take(engine)
                trainer.save_checkpoint(str(Path(directory, name)))

    def keep(trainer: Any, batch: Any) -> None:
        if trainer.global_step >= at:
            batches.append(copied(batch))

    looker, module = _fit(trial, seed=trial.seed, on_step=on_step, on_batch=keep)
    torch.save(batches, _batches(directory, rank))
    return Saved(
        model=snapshot.describe(Replay(trial.lightning, module).model()),
        at_save=found[OLDER],
        at_end=found[LATER],
        losses=looker.record.local_loss[at:],
        lr=tuple((lr,) for lr in looker.record.lr[at:]),
        exported=None,
        first_step=at,
    )


@quietly()
def resume(trial: Trial, directory: str, rank: int) -> Resumed:
    """Loads what `save` wrote, and trains the two steps."""
    import torch

    progress.phase("resuming", trial.ds_config, trial.steps + MORE)
    batches = torch.load(_batches(directory, rank), weights_only=False)
    looker, _ = _fit(
        trial, seed=trial.seed + 1, ckpt_path=str(Path(directory, OLDER)), batches=batches
    )
    loaded, losses, lr = looker.loaded, looker.record.local_loss, looker.record.lr
    at_end = looker.at_end
    progress.phase("loading again", trial.ds_config)
    latest, _ = _fit(
        trial, seed=trial.seed + 1, ckpt_path=str(Path(directory, LATER)), stops_loaded=True
    )
    return Resumed(
        loaded=loaded,
        at_end=at_end,
        losses=losses,
        lr=tuple((one,) for one in lr),
        without_optimizer=None,
        latest=latest.loaded,
        before=(),
        after=(),
        files=_files(Path(directory), trial) if rank == 0 else {},
        damages=(),
    )


def _batches(directory: str, rank: int) -> Path:
    return Path(directory, f"batches-{rank}.pt")


def _fit(
    trial: Trial,
    *,
    seed: int,
    on_step: Callable[[Any, Any, int], None] | None = None,
    on_batch: Callable[[Any, Any], None] | None = None,
    ckpt_path: str | None = None,
    batches: list[Any] | None = None,
    stops_loaded: bool = False,
) -> tuple[Snapshots, Any]:
    """Runs the user's code up to the end of its `fit`; returns the callback and the module.

    Args:
        trial: what to train.
        seed: of all generators.
        on_step: called with Trainer, engine and number after each step.
        on_batch: called with Trainer and batch before each forward pass.
        ckpt_path: what the Trainer continues.
        batches: what `training_step` gets in place of what the loader has.
        stops_loaded: whether it ends when that is loaded.
    """
    from pytest_deepspeed.training.lightning.looking import Snapshots

    looker = Snapshots(on_step, on_batch, stops_loaded=stops_loaded)
    steps = trial.steps + MORE + (1 if stops_loaded else 0)
    target = Target(trial.lightning)
    capture = Capture(target, data=trial.data, seed=seed, steps=steps, callbacks=[looker])
    template: list[Any] = []

    def fit(trainer: Any, module: Any, real_fit: Callable[..., None]) -> None:
        swap_to(trainer.strategy, trial.ds_config)
        template.append(copy.deepcopy(module))
        if batches is not None:
            _feed(module, batches)
        real_fit(ckpt_path=ckpt_path)

    try:
        capture.run(fit)
    finally:
        looker.destroy()
    return looker, template[0]


def _feed(module: Any, batches: list[Any]) -> None:
    left = iter(batches)
    own = module.training_step
    module.training_step = lambda _batch, *more, **named: own(next(left), *more, **named)


def _files(directory: Path, trial: Trial) -> dict[str, StateFile]:
    """What Lightning's own tool makes of the older checkpoint: one file."""
    import torch
    from pytorch_lightning.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

    if stage_of(trial.ds_config) == 0 or why_not(trial.ds_config, "consolidate"):
        return {}
    output = directory / "lightning_model.pt"
    try:
        convert_zero_checkpoint_to_fp32_state_dict(str(directory / OLDER), str(output))
    except Exception as error:  # noqa: BLE001 (whatever it raises, there is no file)
        text = f"{type(error).__name__}: {error}"
        return {"zero_to_fp32": StateFile(output.name, {}, {}, {}, error=text)}
    tensors = torch.load(output, weights_only=False)["state_dict"]
    return {
        "zero_to_fp32": StateFile(
            file=output.name,
            digests=snapshot.digests(tensors),
            shapes=snapshot.shapes(tensors),
            dtypes={name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()},
        )
    }
