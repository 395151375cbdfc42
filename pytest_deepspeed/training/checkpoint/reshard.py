"""A universal checkpoint: converted in one process, loaded at other world sizes and stages."""

from __future__ import annotations

import argparse
import copy
import traceback
from pathlib import Path
from typing import Any

from pytest_deepspeed.processes import progress
from pytest_deepspeed.training.checkpoint import phases, snapshot
from pytest_deepspeed.training.checkpoint.evidence import Resharded
from pytest_deepspeed.training.quiet import quietly
from pytest_deepspeed.training.twin.doubt import doubt_of

#: The tag of the converted checkpoint, beside the one that it is made of.
UNIVERSAL = "older_universal"


def convert(directory: Path, workers: int = 1) -> str:
    """Converts the older tag with DeepSpeed's own tool, in this process.

    Returns:
        what it raised; empty where it did not.
    """
    from deepspeed.checkpoint import ds_to_universal

    checkpoint = directory / phases.CHECKPOINT
    arguments = argparse.Namespace(
        input_folder=str(checkpoint / phases.OLDER),
        output_folder=str(checkpoint / UNIVERSAL),
        num_extract_workers=workers,
        num_merge_workers=workers,
        keep_temp_folder=False,
        strict=True,
        # Without it a checkpoint of a model that says nothing of tensor parallelism is refused.
        inject_missing_state=True,
    )
    try:
        ds_to_universal.main(arguments)
    except Exception as error:  # noqa: BLE001 (whatever it raises, it has not converted)
        return _text(error)
    return ""


@quietly()
def load(
    configs: dict[int, dict[str, Any]],
    workload: Any,
    directory: str,
    at: int,
    more: int,
    do_convert: bool,
    world_size: int,
) -> list[Resharded]:
    """Loads the universal checkpoint under each config, and trains on.

    Args:
        configs: by ZeRO stage.
        workload: what was trained.
        directory: the run's, after `phases.save`.
        at: the step at which the older tag was saved.
        more: steps to train.
        do_convert: whether to convert first; in a world of one rank.
        world_size: filled in.
    """
    from pytest_deepspeed.training.workload.verify import verify

    home, workload = Path(directory), phases.made(workload)
    verify(workload, next(iter(configs.values())), other_sizes=True)
    progress.phase("converting", next(iter(configs.values())))
    error = convert(home) if do_convert else ""
    if error:
        return [Resharded(world_size=world_size, stage=stage, error=error) for stage in configs]
    return [
        _loaded(stage, config, workload, home, at, more, world_size)
        for stage, config in configs.items()
    ]


def _loaded(
    stage: int,
    ds_config: dict[str, Any],
    workload: Any,
    directory: Path,
    at: int,
    more: int,
    world_size: int,
) -> Resharded:
    import torch
    import torch.distributed as dist

    progress.phase("resharding", ds_config, at + more)
    config = copy.deepcopy(ds_config)
    config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}
    scrambled = phases.Scrambled(workload)
    engine = phases.build(config, scrambled, str(directory), f"world{world_size}_stage{stage}")
    try:
        path, _ = engine.load_checkpoint(str(directory / phases.CHECKPOINT), tag=UNIVERSAL)
    except Exception as error:  # noqa: BLE001 (whatever it raises, it has not loaded)
        return Resharded(world_size=world_size, stage=stage, error=_text(error))
    if path is None:
        text = "load_checkpoint returned None"
        return Resharded(world_size=world_size, stage=stage, error=text)
    loaded = snapshot.take(engine)
    local, _ = phases.run(engine, workload, more, at)
    tensors = snapshot.Tensors(engine)
    dtype = str(next(engine.module.parameters()).dtype).removeprefix("torch.")
    engine.destroy()
    losses: list[tuple[float, ...]] = [()] * world_size
    dist.all_gather_object(losses, local)
    weights, moments = torch.load(directory / phases.TENSORS)
    return Resharded(
        world_size=world_size,
        stage=stage,
        losses=tuple(losses),
        loaded=loaded,
        doubt=doubt_of(workload, ds_config, at + more),
        weights=snapshot.differences(weights, tensors.weights),
        moments={
            name: snapshot.differences(states, tensors.moments.get(name, {}))
            for name, states in moments.items()
        },
        dtype=dtype,
    )


def _text(error: Exception) -> str:
    """The error and its place: DeepSpeed raises many an assertion without a text."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    file = "/".join(Path(place.filename).parts[-3:])
    return f"{type(error).__name__} at {file}:{place.lineno}: {str(error) or place.line}"
