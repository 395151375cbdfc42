"""Whether the mode that a config asks for is what ran: judges the evidence of all ranks.

On a CPU all memory is one device: that a tensor is offloaded shows in the class of the optimizer,
in what the object that runs says of itself and, for NVMe, in files. That a tensor is on the right
side of a bus shows on an accelerator only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_deepspeed.training.engagement import asked, expect, layout, offload
from pytest_deepspeed.training.engagement.asked import Asked
from pytest_deepspeed.training.engagement.evidence import RankEngagement
from pytest_deepspeed.training.engagement.problem import Problem
from pytest_deepspeed.values.finding import Finding


def check(
    ds_config: Mapping[str, Any],
    ranks: Sequence[RankEngagement],
    *,
    steps: int,
    groups: Sequence[Mapping[str, Any]] = (),
) -> list[Finding]:
    """What of the config did not engage; empty where all did.

    Args:
        ds_config: what was trained, as it was given to DeepSpeed.
        ranks: the evidence of every rank.
        steps: optimizer steps that were taken.
        groups: the parameter groups that the optimizer was given, whose keys beside ``params``
            take the place of the config's. None: the config's values hold for every group.
    """
    wanted = asked.read(ds_config, ranks[0].world_size)
    found: dict[Problem, list[int]] = {}
    for rank in ranks:
        for problem in _problems(wanted, rank, steps, groups):
            found.setdefault(problem, []).append(rank.rank)
    return [_finding(problem, on, len(ranks)) for problem, on in found.items()]


def _finding(problem: Problem, on: list[int], world_size: int) -> Finding:
    where = ""
    if len(on) < world_size:
        where = f" (rank{'s' if len(on) > 1 else ''} {', '.join(map(str, on))})"
    return Finding(
        check="engagement",
        name=problem.name,
        message=problem.message + where,
        parameter=problem.parameter,
    )


def _problems(
    wanted: Asked, rank: RankEngagement, steps: int, groups: Sequence[Mapping[str, Any]]
) -> Iterator[Problem]:
    yield from _stage(wanted, rank)
    yield from _optimizer(wanted, rank)
    yield from _hyperparameters(wanted, rank, groups)
    yield from _steps(wanted, rank, steps)
    yield from _clipping_and_scheduler(wanted, rank)
    yield from _precision(wanted, rank)
    yield from offload.problems(wanted, rank)
    if wanted.stage == rank.stage:
        yield from layout.problems(wanted, rank)


def _stage(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    if rank.stage != wanted.stage:
        yield Problem(
            "stage",
            f"zero_optimization.stage is {wanted.stage}, but {rank.wrapper} runs, which is stage"
            f" {rank.stage}. See what the script passes to deepspeed.initialize.",
        )


def _optimizer(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    if not wanted.optimizer:
        return
    params = wanted.optimizer_params
    offloaded = wanted.offload_optimizer != "none"
    name = expect.optimizer_class(wanted.optimizer, params, offloaded=offloaded)
    if rank.optimizer != name:
        yield Problem(
            "optimizer_class",
            f"optimizer.type {wanted.optimizer!r} should be {name}, but {rank.optimizer} runs. An"
            " optimizer that the script passes to deepspeed.initialize replaces the config's.",
        )
    if rank.decoupled_weight_decay is None or wanted.optimizer.lower() not in ("adam", "adamw"):
        return
    decouples = expect.decouples(wanted.optimizer, params)
    if rank.decoupled_weight_decay != decouples:
        yield Problem(
            "weight_decay_mode",
            f"optimizer.type {wanted.optimizer!r} should {'' if decouples else 'not '}decouple its"
            f" weight decay, but {rank.optimizer}'s adam_w_mode says the opposite. Set"
            " optimizer.params.adam_w_mode.",
        )


def _hyperparameters(
    wanted: Asked, rank: RankEngagement, groups: Sequence[Mapping[str, Any]]
) -> Iterator[Problem]:
    if groups and len(groups) != len(rank.groups) and wanted.optimizer.lower() != "muon":
        yield Problem(
            "parameter_groups",
            f"the optimizer was given {len(groups)} parameter groups and has {len(rank.groups)}.",
        )
        return
    for index, found in enumerate(rank.groups):
        given = groups[index] if len(groups) == len(rank.groups) else {}
        for key, value in found.items():
            configured = given.get(key, _configured(wanted, key, found))
            if configured is None or (key == "lr" and wanted.scheduler):
                continue
            target = tuple(map(float, configured if _is_pair(configured) else (configured,)))
            if len(target) != len(value) or not all(map(math.isclose, target, value)):
                yield Problem(
                    "hyperparameters",
                    f"{key} of parameter group {index} should be {_plain(target)}, but the"
                    f" optimizer has {_plain(value)}. A scheduler, or code that sets it, replaces"
                    " the config's value.",
                )


def _configured(wanted: Asked, key: str, group: Mapping[str, tuple[float, ...]]) -> Any:
    """The config's value; a group of Muon's takes ``muon_lr`` or ``adam_lr`` before ``lr``."""
    if key == "lr" and "use_muon" in group:
        own = "muon_lr" if group["use_muon"][0] else "adam_lr"
        if own in wanted.optimizer_params:
            return wanted.optimizer_params[own]
    return wanted.optimizer_params.get(key)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _plain(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _steps(wanted: Asked, rank: RankEngagement, steps: int) -> Iterator[Problem]:
    if rank.accumulation_steps != wanted.accumulation_steps:
        yield Problem(
            "accumulation",
            f"the config accumulates {wanted.accumulation_steps} micro-batches, but the engine"
            f" {rank.accumulation_steps}. Look at train_batch_size ="
            " train_micro_batch_size_per_gpu x gradient_accumulation_steps x ranks.",
        )
    passes = steps * wanted.accumulation_steps
    if (rank.global_steps, rank.micro_steps) != (steps, passes):
        yield Problem(
            "accumulation",
            f"{steps} steps of {wanted.accumulation_steps} micro-batches are {passes} passes, but"
            f" the engine counted {rank.global_steps} steps and {rank.micro_steps} passes. Call"
            " engine.step() once after each engine.backward().",
        )
    applied = steps - rank.skipped_steps
    if rank.optimizer_steps != applied:
        yield Problem(
            "optimizer_steps",
            f"{applied} steps were applied, but {rank.optimizer} counted {rank.optimizer_steps}."
            " Its bias correction, and what it did to the weights, are those of another step.",
        )


def _clipping_and_scheduler(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    if wanted.clipping is not None and not math.isclose(rank.clipping, wanted.clipping):
        yield Problem(
            "clipping",
            f"gradient_clipping is {wanted.clipping:g}, but {rank.wrapper} clips to"
            f" {rank.clipping:g}. Spell the key gradient_clipping, at the top level.",
        )
    if wanted.scheduler != rank.scheduler:
        yield Problem(
            "scheduler",
            f"scheduler.type is {wanted.scheduler or 'not set'}, but"
            f" {rank.scheduler or 'no scheduler'} runs. A scheduler that the script passes to"
            " deepspeed.initialize replaces the config's.",
        )


def _precision(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    wrong = [p for p in rank.parameters if p.dtype != wanted.dtype]
    if wrong:
        yield Problem(
            "precision",
            f"the config computes in {wanted.dtype}, but {len(wrong)} of {len(rank.parameters)}"
            f" parameters are in {wrong[0].dtype}, {wrong[0].name} first. Look at the blocks bf16"
            ' and fp16: "enabled" must be true, not "auto".',
            wrong[0].name,
        )
    masters = [p for p in rank.partitions if p.resident and p.dtype != wanted.master_dtype]
    if masters:
        yield Problem(
            "precision",
            f"master weights should be in {wanted.master_dtype}, but those of parameter group"
            f" {masters[0].group} are in {masters[0].dtype}. Look at"
            " bf16.bf16_master_weights_and_grads and its fp16 twin.",
        )
