"""Offloads that are off, or that lose what they hold."""

from __future__ import annotations

from typing import Any

import torch

from mutants.damage import ZERO_3, Damage, mutant


@mutant(2, offload_optimizer="cpu")
def optimizer_offload_ignored(damage: Damage) -> None:
    """offload_optimizer is asked for, and nothing is offloaded."""

    def change(config: Any) -> None:
        config.zero_config.offload_optimizer = None

    damage.configure(change)


@mutant(3, offload_optimizer="cpu", offload_param="cpu")
def param_offload_ignored(damage: Damage) -> None:
    """offload_param is asked for, and the parameters stay."""

    def change(config: Any) -> None:
        config.zero_config.offload_param = None

    damage.configure(change)


@mutant(3, offload_optimizer="nvme")
def nvme_turned_into_cpu(damage: Damage) -> None:
    """The optimizer is to be offloaded to NVMe, and stays in memory."""

    def change(config: Any) -> None:
        config.zero_config.offload_optimizer.device = "cpu"

    damage.configure(change)


@mutant(3, "bf16", offload_optimizer="cpu", offload_param="nvme")
def param_nvme_turned_into_cpu(damage: Damage) -> None:
    """The parameters are to be offloaded to NVMe, and stay in memory."""

    def change(config: Any) -> None:
        config.zero_config.offload_param.device = "cpu"

    damage.configure(change)


@mutant(3, "bf16", offload_optimizer="cpu")
def master_not_copied_back(damage: Damage) -> None:
    """The updated master weights of the first sub-group are not copied to the bf16 weights."""

    def reassign(original: Any, self: Any, sub_group_id: int) -> Any:
        if sub_group_id == 0:
            damage.done()
            return None
        return original(self, sub_group_id)

    damage.around(ZERO_3, "_reassign_or_swap_out_partitioned_parameters", reassign)


@mutant(3, offload_optimizer="nvme")
def swap_file_of_zeros(damage: Damage) -> None:
    """The swap file of a first moment is written as zeros."""

    def swap_out(original: Any, self: Any, sub_group_id: int, *args: Any) -> Any:
        master = self.fp32_partitioned_groups_flat[sub_group_id]
        state = self.optimizer.state[master]
        if "exp_avg" in state:
            state["exp_avg"].zero_()
            damage.done()
        return original(self, sub_group_id, *args)

    damage.around(ZERO_3, "_optimizer_states_and_gradient_swap_out", swap_out)


@mutant(3, offload_optimizer="nvme")
def stale_swap_in(damage: Damage) -> None:
    """Swap files are not written after a step: the next one reads the old master weights."""
    held: dict[int, torch.Tensor] = {}

    def swap_in(original: Any, self: Any, sub_group_id: int, *args: Any) -> Any:
        found = original(self, sub_group_id, *args)
        held[sub_group_id] = self.fp32_partitioned_groups_flat[sub_group_id].data.clone()
        return found

    def swap_out(original: Any, self: Any, sub_group_id: int, *args: Any) -> Any:
        if sub_group_id in held:
            self.fp32_partitioned_groups_flat[sub_group_id].data.copy_(held[sub_group_id])
            damage.done()
        return original(self, sub_group_id, *args)

    damage.around(ZERO_3, "_optimizer_states_and_gradient_swap_in", swap_in)
    damage.around(ZERO_3, "_optimizer_states_and_gradient_swap_out", swap_out)


@mutant(3, "bf16", offload_optimizer="cpu", offload_param="nvme")
def parameters_not_swapped_out(damage: Damage) -> None:
    """Updated parameters are not written to their swap files."""

    def swap_out(_original: Any, *_args: Any) -> None:
        damage.done()

    damage.around(ZERO_3, "_partitioned_params_swap_out", swap_out)
