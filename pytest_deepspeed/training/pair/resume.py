"""The base's checkpoint under the head's config: tried in fresh worlds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.processes import progress
from pytest_deepspeed.training.checkpoint import limits, phases, reshard, snapshot
from pytest_deepspeed.training.checkpoint.equivalence import MORE
from pytest_deepspeed.training.checkpoint.evidence import Saved, Snapshot
from pytest_deepspeed.training.checkpoint.rounding import cut
from pytest_deepspeed.training.pair.evidence import Continued
from pytest_deepspeed.training.quiet import quietly
from pytest_deepspeed.training.trial import Trial

Run = Callable[..., list[Any]]

#: More names of what differs are counted, not listed.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What one rank found after it loaded.

    Attributes:
        refusal: what was raised; empty where nothing was.
        state: right after the load; ``None`` where there was none.
        losses: of this rank, of the steps after it.
    """

    refusal: str = ""
    state: Snapshot | None = None
    losses: tuple[float, ...] = ()


def continued(run: Run, base: Trial, head: Trial, directory: Path) -> Continued:
    """Saves a training of the base, and lets the head go on from there.

    Args:
        run: starts a world; see `checkpoint.equivalence.Run`.
        base: what is saved; both train the same.
        head: what is loaded.
        directory: an empty one.
    """
    for side, trial in (("the base's", base), ("the head's", head)):
        if reason := limits.why_not(trial.ds_config, "resume"):
            return Continued(skipped=f"{side} checkpoint cannot be loaded at all: {reason}")
    at = cut(base.ds_config, MORE)
    given = {"directory": str(directory), "at": at, "more": MORE}
    saved: list[Saved] = run(
        phases.save,
        world_size=base.world_size,
        ds_config=dict(base.ds_config),
        workload=base.workload,
        **given,
    )
    universal = _asks_for_universal(head.ds_config)
    if universal and (error := _converted(run, directory)):
        return Continued(refusal=error, universal=True)
    found: list[Loaded] = run(
        load,
        world_size=head.world_size,
        ds_config=dict(head.ds_config),
        workload=head.workload,
        tag=reshard.UNIVERSAL if universal else phases.OLDER,
        **given,
    )
    result = _judged(saved, found, universal)
    if universal or not (result.refusal or result.differing):
        return result
    way_out = _way_out(run, base, head, directory, saved, given)
    return dataclasses.replace(result, way_out=way_out)


@quietly()
def load(
    ds_config: dict[str, Any],
    workload: Any,
    directory: str,
    at: int,
    more: int,
    tag: str,
) -> Loaded:
    """Loads a checkpoint on this rank, and trains on; every rank of the world calls it alike."""
    progress.phase("resuming", ds_config, at + more)
    workload = phases.made(workload)
    engine = phases.build(ds_config, phases.Scrambled(workload), directory, f"head_{tag}")
    try:
        path, _ = engine.load_checkpoint(str(Path(directory, phases.CHECKPOINT)), tag=tag)
    except Exception as error:  # noqa: BLE001 (whatever it raises, it has refused)
        return Loaded(refusal=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    if path is None:
        return Loaded(refusal="load_checkpoint found nothing to load, and returned None")
    state = snapshot.take(engine)
    losses, _ = phases.run(engine, workload, more, at)
    engine.destroy()
    return Loaded(state=state, losses=losses)


def _judged(saved: list[Saved], found: list[Loaded], universal: bool) -> Continued:
    refusals = [one.refusal for one in found if one.refusal]
    if refusals:
        return Continued(refusal=refusals[0], universal=universal)
    state = found[0].state
    assert state is not None
    return Continued(
        differing=tuple(_differing(saved[0].at_save, state)),
        losses=_mean([one.losses for one in found]),
        base_losses=_mean([one.losses for one in saved]),
        universal=universal,
    )


def _differing(saved: Snapshot, loaded: Snapshot) -> list[str]:
    """What of the state did not come back as it was saved."""
    found = []
    weights = [name for name, digest in saved.weights.items() if loaded.weights.get(name) != digest]
    if weights:
        found.append(f"weights ({_listed(weights)})")
    moments = [
        name
        for name, states in saved.moments.items()
        if any(loaded.moments.get(name, {}).get(key) != digest for key, digest in states.items())
    ]
    if moments:
        found.append(f"optimizer states ({_listed(moments)})")
    if any(loaded.buffers.get(name) != digest for name, digest in saved.buffers.items()):
        found.append("buffers")
    if saved.global_steps != loaded.global_steps:
        found.append(f"the count of steps ({loaded.global_steps} of {saved.global_steps})")
    return found


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _mean(of_ranks: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(values) / len(values) for values in zip(*of_ranks, strict=True))


def _asks_for_universal(ds_config: Mapping[str, Any]) -> bool:
    block = ds_config.get("checkpoint")
    return isinstance(block, Mapping) and block.get("load_universal") is True


def _converted(run: Run, directory: Path) -> str:
    """Converts the checkpoint in a world of one rank; what was raised, else empty."""
    text: str = run(convert, world_size=1, directory=str(directory))[0]
    return text


def convert(directory: str) -> str:
    """Converts the older tag on this rank; what was raised, else empty."""
    return reshard.convert(Path(directory))


def _way_out(
    run: Run,
    base: Trial,
    head: Trial,
    directory: Path,
    saved: list[Saved],
    given: Mapping[str, Any],
) -> str:
    """What would take the state over, where it was tried and found right; else empty."""
    stages = (limits.stage_of(base.ds_config), limits.stage_of(head.ds_config))
    if limits.why_not(base.ds_config, "reshard") or limits.why_not_across(*stages):
        return ""
    if _converted(run, directory):
        return ""
    block = {**(head.ds_config.get("checkpoint") or {}), "load_universal": True}
    found: list[Loaded] = run(
        load,
        world_size=head.world_size,
        ds_config={**head.ds_config, "checkpoint": block},
        workload=head.workload,
        tag=reshard.UNIVERSAL,
        **given,
    )
    result = _judged(saved, found, universal=True)
    if result.refusal or result.differing:
        return ""
    return (
        "as a universal checkpoint it loads, and nothing of it is lost (tried): convert it with"
        " ds_to_universal.py, and set checkpoint.load_universal for the first start"
    )
