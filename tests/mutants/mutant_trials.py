"""A trial or a checkpoint equivalence of a mode, on ranks whose DeepSpeed is damaged."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from mutants import MUTANTS, Mutant

from pytest_deepspeed.training import faults, judge, matrix
from pytest_deepspeed.training import train as training
from pytest_deepspeed.training.checkpoint import check, equivalence
from pytest_deepspeed.training.evidence import Evidence
from pytest_deepspeed.training.memory.limits import Limits
from pytest_deepspeed.training.trial import Trial
from pytest_deepspeed.values import plain
from pytest_deepspeed.values.finding import Finding

WORLD_SIZE = 2

#: Optimizer steps of a training: enough for what goes wrong in the third, and one more.
STEPS = 4

NO_LIMITS = Limits({}, {})

#: Steps before a checkpoint is saved, and after.
AT, MORE = 3, 2


def config(mutant: Mutant, nvme_path: Path) -> dict[str, Any]:
    """The config in which a mutant bites."""
    found = matrix.config(mutant.mode, nvme_path=nvme_path, optimizer=mutant.optimizer)
    found |= mutant.changes
    if mutant.mode.offload_optimizer == "nvme":
        # A sub-group for each parameter: else a known fault of DeepSpeed explains every finding.
        found["zero_optimization"]["sub_group_size"] = 1
    return {key: value for key, value in found.items() if value is not None}


def train(name: str | None, trained: Trial) -> tuple[str | None, int]:
    """On a rank: the evidence of a trial, and how often the fault was done."""
    damage = MUTANTS[name].apply() if name else None
    return training.run(trained), damage.reached if damage else 0


def damaged_phase(
    name: str | None, phase: Any, given: dict[str, Any], rank: int, world_size: int
) -> tuple[Any, int]:
    """On a rank: a phase of a checkpoint equivalence, and how often the fault was done."""
    damage = MUTANTS[name].apply() if name else None
    own = {"rank": rank, "world_size": world_size}
    takes = inspect.signature(phase).parameters
    value = phase(**given, **{key: own[key] for key in own if key in takes})
    return value, damage.reached if damage else 0


def findings(
    ds_run: Any, mutant: Mutant, directory: Path, *, damaged: bool
) -> tuple[list[Finding], int]:
    """What the checks find that no known fault of DeepSpeed explains, and how often it was done."""
    ds_config = config(mutant, directory)
    met = [fault for fault in faults.can_meet(ds_config) if fault.check == "parity" and fault.trait]
    trained = Trial(
        ds_config=ds_config,
        world_size=WORLD_SIZE,
        without=tuple(sorted({fault.trait or "" for fault in met})),
        steps=STEPS,
    )
    by_phase = _of_training if mutant.phase == "training" else _of_checkpoint
    found, reached = by_phase(ds_run, mutant.name if damaged else None, trained, directory)
    _, unknown = faults.known(found, ds_config, trained.workload().traits)
    return unknown, reached


def _of_training(
    ds_run: Any, name: str | None, trained: Trial, _directory: Path
) -> tuple[list[Finding], int]:
    values = ds_run(train, world_size=WORLD_SIZE, name=name, trained=trained)
    evidence = plain.load(Evidence, values[0][0])
    found = [
        finding
        for one in judge.OF_A_TRIAL
        for finding in judge.findings(one, evidence, Limits({}, {}))
    ]
    return found, sum(reached for _, reached in values)


def _of_checkpoint(
    ds_run: Any, name: str | None, trained: Trial, directory: Path
) -> tuple[list[Finding], int]:
    reached = []

    def run(phase: Any, *, world_size: int, **given: Any) -> list[Any]:
        values = ds_run(damaged_phase, world_size=world_size, name=name, phase=phase, given=given)
        reached.extend(count for _, count in values)
        return [value for value, _ in values]

    evidence = equivalence.equivalence(
        run, trained.ds_config, trained.workload, directory, at=AT, more=MORE, damages=()
    )
    return check.check(evidence), sum(reached)
