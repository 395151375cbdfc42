"""Starts the worlds that save a training and load it again, and puts their evidence together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.training.checkpoint import damage, limits, phases, reshard
from pytest_deepspeed.training.checkpoint.evidence import (
    CheckpointEvidence,
    Resharded,
    ReshardEvidence,
    Resumed,
    Saved,
)
from pytest_deepspeed.training.checkpoint.rounding import cut

#: ``run(function, world_size=n, **kwargs)`` calls ``function(**kwargs)`` on ``n`` fresh ranks,
#: gives it ``rank`` and ``world_size`` where it takes them, and returns each rank's value.
Run = Callable[..., list[Any]]

#: Optimizer steps after the older tag is saved.
MORE = 2


def equivalence(
    run: Run,
    ds_config: Mapping[str, Any],
    workload: Any,
    directory: str | Path,
    *,
    at: int | None = None,
    more: int = MORE,
    world_size: int = 2,
    damages: tuple[str, ...] = tuple(damage.KINDS),
) -> CheckpointEvidence:
    """Trains and saves in one world, loads in a second one of the same size.

    Args:
        run: starts a world; see `Run`.
        ds_config: one that this machine can run. Each world swaps to a directory of its own below
            its ``nvme_path``, or below ``directory`` where there is none; none is removed.
        workload: a `reference_training.workload.Workload` that can be pickled, or a function that
            can be and returns one on the ranks, for a controller without torch.
        directory: an existing, empty one, which is given back with the checkpoints in it.
        at: steps before the first save; `rounding.cut` unless given.
        more: steps after it.
        world_size: ranks of both worlds.
        damages: keys of `damage.KINDS`.
    """
    if reason := limits.why_not(ds_config, "resume"):
        return CheckpointEvidence(saved=(), resumed=(), skipped={"resume": reason})
    given = {
        "ds_config": dict(ds_config),
        "workload": workload,
        "directory": str(directory),
        "at": at or cut(ds_config, more),
        "more": more,
    }
    saved: list[Saved] = run(phases.save, world_size=world_size, **given)
    resumed: list[Resumed] = run(phases.resume, world_size=world_size, damages=damages, **given)
    whats: tuple[limits.What, ...] = ("without_optimizer", "consolidate", "export")
    return CheckpointEvidence(
        saved=tuple(saved),
        resumed=tuple(resumed),
        skipped={w: reason for w in whats if (reason := limits.why_not(ds_config, w))},
    )


def resharding(
    run: Run,
    ds_config: Mapping[str, Any],
    workload: Any,
    directory: str | Path,
    saved: tuple[Saved, ...],
    *,
    more: int = MORE,
    world_sizes: tuple[int, ...] = (1, 4),
    stages: tuple[int, ...] = (1, 2, 3),
    lacking: Callable[[int], str] = lambda _: "",
) -> ReshardEvidence:
    """Loads what `equivalence` saved as a universal checkpoint, in a world of each size.

    It is converted once, in one process. Other ZeRO stages than that of the config are tried in
    the world of one rank.

    Args:
        run: as for `equivalence`.
        ds_config: as for `equivalence`.
        workload: as for `equivalence`.
        directory: as for `equivalence`, after it.
        saved: of its evidence.
        more: as for `equivalence`.
        world_sizes: beginning with 1, the world that converts.
        stages: to load at in the world of one rank; the config's own comes first, whether it is
            among them or not.
        lacking: why there can be no world of a size here; empty where there can.

    Raises:
        ValueError: ``world_sizes`` does not begin with 1.
    """
    if world_sizes[:1] != (1,):
        raise ValueError(
            f"world_sizes must begin with 1, not {world_sizes}: one process converts the checkpoint"
        )
    own = limits.stage_of(ds_config)
    if reason := limits.why_not(ds_config, "resume") or limits.why_not(ds_config, "reshard"):
        return ReshardEvidence(saved=saved, stage=own, resharded=(), skipped={"reshard": reason})
    skipped = {}
    found: list[Resharded] = []
    for world_size in world_sizes:
        if reason := limits.why_not_at(ds_config, len(saved), world_size) or lacking(world_size):
            skipped[f"world {world_size}"] = reason
            continue
        wanted = [own]
        for stage in stages if world_size == 1 else ():
            if reason := limits.why_not_across(own, stage):
                skipped[f"stage {stage}"] = reason
            elif stage != own:
                wanted.append(stage)
        found += run(
            reshard.load,
            world_size=world_size,
            configs={stage: at_stage(ds_config, len(saved), world_size, stage) for stage in wanted},
            workload=workload,
            directory=str(directory),
            at=saved[0].first_step,
            more=more,
            do_convert=world_size == world_sizes[0],
        )[0]
    return ReshardEvidence(saved=saved, stage=own, resharded=tuple(found), skipped=skipped)


def at_stage(
    ds_config: Mapping[str, Any], saved_world_size: int, world_size: int, stage: int
) -> dict[str, Any]:
    """The config for another world, with the same batch, and stage, there without offload."""
    config = copy.deepcopy(dict(ds_config))
    batch, accumulation = limits.batch_of(config, saved_world_size)
    config |= {
        "train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "train_micro_batch_size_per_gpu": batch // (world_size * accumulation),
    }
    if stage != limits.stage_of(config):
        zero = config["zero_optimization"]
        kept = {key: value for key, value in zero.items() if not key.startswith("offload_")}
        config["zero_optimization"] = kept | {"stage": stage}
    return config
