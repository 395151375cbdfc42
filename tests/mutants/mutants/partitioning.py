"""Weights that are partitioned, gathered or shared wrongly."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from mutants.damage import ENGINE, ZERO_1_2, ZERO_3, Damage, mutant

STAGE_1_AND_2 = "deepspeed.runtime.zero.stage_1_and_2"
DRIFT = 1e-3


@mutant(1)
def last_element_not_updated(damage: Damage) -> None:
    """The last element of rank 0's partition keeps its first value."""

    def step(original: Any, self: Any, group: int) -> Any:
        master = self.single_partition_of_fp32_groups[group]
        before = master.data[-1].clone()
        original(self, group)
        if dist.get_rank() == 0:
            master.data[-1] = before
        damage.done()

    damage.around(ZERO_1_2, "_optimizer_step", step)


@mutant(3)
def stale_parameter_after_gather(damage: Damage) -> None:
    """The weights that are gathered of the first parameter are those of the step before."""
    before: list[torch.Tensor] = []

    def reassign(original: Any, self: Any, sub_group_id: int) -> Any:
        found = original(self, sub_group_id)
        if sub_group_id == 0:
            partition = self.fp16_partitioned_groups[0][0].data
            before.append(partition.clone())
            if len(before) > 1:
                partition.copy_(before[-2])
                damage.done()
        return found

    damage.around(ZERO_3, "_reassign_or_swap_out_partitioned_parameters", reassign)


@mutant(0)
def one_rank_drifts(damage: Damage) -> None:
    """After each step one weight of rank 1 is 1e-3 larger than on rank 0."""

    def step(original: Any, self: Any, *args: Any) -> Any:
        found = original(self, *args)
        if dist.get_rank() == 1:
            next(self.module.parameters()).data.view(-1)[0].add_(DRIFT)
        damage.done()
        return found

    damage.around(ENGINE, "_take_model_step", step)


@mutant(3)
def one_partition_drifts(damage: Damage) -> None:
    """Rank 1 adds 1e-3 to one weight of its partition in each step: all ranks gather it."""

    def step(original: Any, self: Any, sub_group_id: int) -> Any:
        found = original(self, sub_group_id)
        if dist.get_rank() == 1 and sub_group_id == 0:
            self.fp32_partitioned_groups_flat[0].data[0].add_(DRIFT)
        damage.done()
        return found

    damage.around(ZERO_3, "_optimizer_step", step)


@mutant(1)
def partitions_not_gathered(damage: Damage) -> None:
    """Updated partitions stay on their rank: the others compute with old weights."""
    damage.answer(STAGE_1_AND_2, "all_gather_dp_groups", None)


@mutant(3)
def nothing_partitioned(damage: Damage) -> None:
    """The persistence threshold is so large that ZeRO-3 keeps all parameters whole."""

    def change(config: Any) -> None:
        config.zero_config.param_persistence_threshold = 10**12
        config.zero_config.model_persistence_threshold = 10**12

    damage.configure(change)


@mutant(2)
def gradients_not_partitioned(damage: Damage) -> None:
    """Stage 2 is asked for, and stage 1 runs."""
    _run_stage(damage, 1)


@mutant(3)
def parameters_not_partitioned(damage: Damage) -> None:
    """Stage 3 is asked for, and stage 2 runs."""
    _run_stage(damage, 2)


def _run_stage(damage: Damage, stage: int) -> None:
    def change(config: Any) -> None:
        config.zero_config.stage = stage
        config.zero_optimization_stage = stage

    damage.configure(change)


@mutant(1, "bf16")
def weights_not_refreshed(damage: Damage) -> None:
    """The bf16 weights of the first group are not copied from the master weights after a step."""
    before: list[torch.Tensor] = []

    def step(original: Any, self: Any, *args: Any) -> Any:
        before[:] = [self.parallel_partitioned_bit16_groups[0][dist.get_rank()].clone()]
        return original(self, *args)

    def gather(original: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["partitioned_param_groups"][0][dist.get_rank()].copy_(before[0])
        damage.done()
        return original(*args, **kwargs)

    damage.around(ZERO_1_2, "step", step)
    damage.around(STAGE_1_AND_2, "all_gather_dp_groups", gather)
