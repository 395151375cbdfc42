"""Checkpoints that are saved, consolidated or loaded wrongly."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from mutants.damage import ENGINE, ZERO_1_2, ZERO_3, Damage, mutant

ZERO_TO_FP32 = "deepspeed.utils.zero_to_fp32"


@mutant(1, phase="checkpoint")
def optimizer_not_restored(damage: Damage) -> None:
    """Loading takes the weights and leaves the optimizer states."""

    def load(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        damage.done()
        return original(self, *args, **{**kwargs, "load_optimizer_states": False})

    damage.around(ENGINE, "_load_zero_checkpoint", load)


@mutant(3, phase="checkpoint")
def second_moment_not_restored(damage: Damage) -> None:
    """Of Adam's two moments only the first is loaded."""

    def load(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        original(self, *args, **kwargs)
        for state in self.optimizer.state.values():
            if "exp_avg_sq" in state:
                state["exp_avg_sq"].zero_()
                damage.done()

    damage.around(ZERO_3, "load_state_dict", load)


@mutant(2, phase="checkpoint")
def steps_not_restored(damage: Damage) -> None:
    """The optimizer counts its steps from zero again after loading."""

    def load(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        original(self, *args, **kwargs)
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.zeros_like(torch.as_tensor(state["step"])).item()
                damage.done()
        for group in self.optimizer.param_groups:
            if "step" in group:
                group["step"] = 0
                damage.done()

    damage.around(ZERO_1_2, "load_state_dict", load)


@mutant(2, phase="checkpoint")
def scheduler_reset_on_load(damage: Damage) -> None:
    """The scheduler starts anew after loading."""

    def load(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        scheduler, self.lr_scheduler = self.lr_scheduler, None
        damage.done()
        try:
            return original(self, *args, **kwargs)
        finally:
            self.lr_scheduler = scheduler

    damage.around(ENGINE, "_load_checkpoint", load)


@mutant(1, phase="checkpoint")
def second_groups_decay_not_restored(damage: Damage) -> None:
    """After loading, the second parameter group decays like the first."""

    def load(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        original(self, *args, **kwargs)
        first, second, *_ = self.optimizer.param_groups
        second["weight_decay"] = first["weight_decay"]
        damage.done()

    damage.around(ZERO_1_2, "load_state_dict", load)


@mutant(1, phase="checkpoint")
def shard_of_another_rank(damage: Damage) -> None:
    """Each rank loads the optimizer shard of the next rank."""

    def names(original: Any, self: Any, *args: Any, **kwargs: Any) -> list[str]:
        found: list[str] = original(self, *args, **kwargs)
        damage.done()
        return [*found[1:], found[0]]

    damage.around(ENGINE, "_get_all_zero_checkpoint_names", names)


@mutant(3, phase="checkpoint")
def latest_instead_of_the_tag(damage: Damage) -> None:
    """Whatever tag is asked for, the latest one is loaded."""

    def load(original: Any, self: Any, load_dir: str, tag: Any = None, **kwargs: Any) -> Any:
        damage.reached += tag is not None
        return original(self, load_dir, None, **kwargs)

    damage.around(ENGINE, "load_checkpoint", load)


@mutant(1, "bf16", phase="checkpoint")
def master_weights_not_restored(damage: Damage) -> None:
    """Master weights are loaded from the bf16 weights, and lose their last 16 bits."""
    damage.answer(ENGINE, "zero_load_from_fp32_weights", False)


@mutant(2, phase="checkpoint")
def consolidated_tensor_of_zeros(damage: Damage) -> None:
    """One tensor of the consolidated file holds zeros."""

    def merge(original: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(*args, **kwargs)
        name = min(state)
        state[name] = torch.zeros(state[name].shape)
        damage.done()
        return state

    damage.around(ZERO_TO_FP32, "_get_fp32_state_dict_from_zero_checkpoint", merge)


@mutant(2, phase="checkpoint")
def frozen_parameter_not_consolidated(damage: Damage) -> None:
    """Frozen parameters are left out of the consolidated file."""
    damage.answer(ZERO_TO_FP32, "_zero2_merge_frozen_params", None)


@mutant(2, phase="checkpoint")
def tied_weight_untied(damage: Damage) -> None:
    """The consolidated file forgets that two names share a tensor."""
    damage.answer(ENGINE, "_get_shared_params", {})


@mutant(2, phase="checkpoint")
def buffer_not_saved(damage: Damage) -> None:
    """Buffers are not named for the consolidation, and left out of its file."""
    damage.answer(ENGINE, "_get_buffer_names", [])


@mutant(3, phase="checkpoint")
def one_rank_saves_old_weights(damage: Damage) -> None:
    """Rank 1 saves the weights that it had before its last step."""
    before: list[list[torch.Tensor]] = []

    def step(original: Any, self: Any, *args: Any) -> Any:
        before[:] = [[flat.data.clone() for flat in self.fp32_partitioned_groups_flat]]
        return original(self, *args)

    def save(original: Any, self: Any, *args: Any) -> Any:
        state = original(self, *args)
        if dist.get_rank() == 1 and before:
            state["fp32_flat_groups"] = before[0]
        damage.done()
        return state

    damage.around(ZERO_3, "step", step)
    damage.around(ZERO_3, "state_dict", save)
