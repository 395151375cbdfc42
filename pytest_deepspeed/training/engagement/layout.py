"""Partitions of weights, gradients and states against the exact expectation, for one rank."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_deepspeed.training.engagement import expect
from pytest_deepspeed.training.engagement.asked import Asked
from pytest_deepspeed.training.engagement.evidence import Parameter, Partition, RankEngagement
from pytest_deepspeed.training.engagement.problem import Problem

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def problems(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    """What of this rank's partitions is not as the config's stage makes them."""
    lost = [p for p in rank.parameters if p.trained and p.group is None]
    if lost:
        yield Problem(
            "parameters",
            f"{len(lost)} parameters require gradients, but no optimizer group has them,"
            f" {lost[0].name} first. Pass them as model_parameters, or freeze them.",
            lost[0].name,
        )
    yield from _partitions(wanted, rank)
    yield from _states(rank)
    yield from _gradients(rank)
    if rank.stage == 3:
        yield from _parts(rank)
        yield from _persistence(wanted, rank)


def partitions(wanted: Asked, rank: RankEngagement) -> list[tuple[int, int, int]]:
    """This rank's expected partitions: (group, elements, padding among them)."""
    by_group: dict[int, list[Parameter]] = {}
    for parameter in rank.parameters:
        if parameter.group is not None:
            by_group.setdefault(parameter.group, []).append(parameter)
    found = []
    for group, members in sorted(by_group.items()):
        members.sort(key=lambda p: p.index or 0)
        numels = [math.prod(p.shape) for p in members]
        found += [(group, *one) for one in _of_group(wanted, rank, numels, members[0].dtype)]
    return found


def _of_group(
    wanted: Asked, rank: RankEngagement, numels: list[int], dtype: str
) -> list[tuple[int, int]]:
    world = rank.world_size
    if rank.stage == 0:
        return [(sum(numels), 0)]
    if rank.stage < 3:
        alignment = 16 // _BYTES.get(dtype, 4) if wanted.parameter_alignment else 1
        order = expect.round_robin(numels, world) if wanted.round_robin else numels
        size, paddings = expect.flat_partitions(order, world, param_alignment=alignment)
        return [(size, paddings[rank.rank])]
    parts = [expect.part(numel, world) for numel in numels]
    last = rank.rank == world - 1  # where DeepSpeed counts all of it
    return [
        (
            sum(parts[i] for i in some),
            sum(parts[i] * world - numels[i] for i in some) if last else 0,
        )
        for some in expect.sub_groups(parts, wanted.sub_group_size)
    ]


def _partitions(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    expected = partitions(wanted, rank)
    found = [(p.group, p.numel, p.padding) for p in rank.partitions]
    if found != expected:
        yield Problem(
            "partitions",
            f"at stage {rank.stage} on {rank.world_size} ranks this rank's master weights should be"
            f" {_listed(expected)}, but are {_listed(found)}.",
        )


def _listed(partitions: list[tuple[int, int, int]]) -> str:
    return "; ".join(
        f"{numel:,} elements of group {group}" + (f", {padding} of them padding" * bool(padding))
        for group, numel, padding in partitions
    )


def _states(rank: RankEngagement) -> Iterator[Problem]:
    for partition in rank.partitions:
        wrong = [s for s in partition.states if s.resident != partition.resident]
        if wrong:
            yield Problem(
                "states",
                f"{wrong[0].key} of parameter group {partition.group} has {wrong[0].resident:,}"
                f" elements in memory and the master weights {partition.resident:,}: they should"
                " be alike.",
            )


def _gradients(rank: RankEngagement) -> Iterator[Problem]:
    if rank.stage >= 2 and rank.gradients.whole:
        yield Problem(
            "gradients",
            f"stage {rank.stage} partitions gradients, but {rank.gradients.whole:,} elements were"
            " whole in the parameters' grad before the update.",
        )
    if rank.stage == 0:
        return
    for partition, part in zip(rank.partitions, rank.gradients.parts, strict=False):
        if not _complete(partition, part.numel, part.swapped):
            yield Problem(
                "gradients",
                f"gradients of parameter group {partition.group} should be {partition.numel:,}"
                f" elements on this rank before the update, but {part.numel:,} were in memory and"
                f" {part.swapped:,} in swap files.",
            )


def _complete(partition: Partition, numel: int, swapped: int) -> bool:
    """A swapped group has no gradients for padding, nor for parameters that the step left out."""
    if partition.resident:
        return numel == partition.numel
    return 0 < numel + swapped <= partition.numel


def _parts(rank: RankEngagement) -> Iterator[Problem]:
    for parameter in rank.parameters:
        numel = expect.part(math.prod(parameter.shape), rank.world_size)
        if parameter.partition != numel:
            yield Problem(
                "partitions",
                f"{parameter.name} of shape {parameter.shape} should leave {numel:,} elements on"
                f" each of {rank.world_size} ranks, but this one has {parameter.partition:,}.",
                parameter.name,
            )


def _persistence(wanted: Asked, rank: RankEngagement) -> Iterator[Problem]:
    numels = {p.name: math.prod(p.shape) for p in rank.parameters}
    threshold = wanted.persistence_threshold
    expected = expect.persistent(numels, threshold, wanted.model_persistence_threshold)
    found = {p.name for p in rank.parameters if p.persistent}
    if set(numels) == found:
        largest = max(numels, key=lambda name: numels[name])
        yield Problem(
            "persistence",
            f"ZeRO-3 partitions nothing: none of the {len(numels)} parameters has more elements"
            f" than stage3_param_persistence_threshold = {threshold:,}, so that each rank keeps"
            f" them whole. Set it below {numels[largest]:,}, the elements of {largest}, or widen"
            " the model.",
            largest,
        )
    elif expected != found:
        name = min(expected ^ found)
        yield Problem(
            "persistence",
            f"with stage3_param_persistence_threshold = {threshold:,}, {name} of {numels[name]:,}"
            f" elements should {'' if name in expected else 'not '}stay whole on each rank, but"
            f" DeepSpeed {'does not keep' if name in expected else 'keeps'} it.",
            name,
        )
    whole = [p for p in rank.parameters if p.resident and not p.persistent]
    if whole:
        yield Problem(
            "persistence",
            f"{whole[0].name} should be partitioned between steps, but this rank holds"
            f" {whole[0].resident:,} elements of it.",
            whole[0].name,
        )
