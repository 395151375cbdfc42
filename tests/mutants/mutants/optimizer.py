"""An optimizer or a scheduler that does not do what the config says."""

from __future__ import annotations

from typing import Any

import torch

from mutants.damage import ADAM, CPU_ADAM, ENGINE, ZERO_1_2, ZERO_3, Damage, hyperparameters, mutant


def _steps_with(damage: Damage, optimizer: str, **values: Any) -> None:
    """Each step of the class runs with other hyperparameters than its groups show."""

    def step(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        groups = [group for group in self.param_groups if group["params"]]
        with hyperparameters(groups[0], **values):
            damage.done()
            return original(self, *args, **kwargs)

    damage.around(optimizer, "step", step)


@mutant(1)
def weight_decay_ignored(damage: Damage) -> None:
    """The optimizer steps without weight decay; its groups still show it."""
    _steps_with(damage, ADAM, weight_decay=0.0)


@mutant(3)
def betas_swapped(damage: Damage) -> None:
    """Adam's two betas are exchanged."""

    def step(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        group = next(group for group in self.param_groups if group["params"])
        with hyperparameters(group, betas=group["betas"][::-1]):
            damage.done()
            return original(self, *args, **kwargs)

    damage.around(ADAM, "step", step)


@mutant(2)
def bias_correction_off(damage: Damage) -> None:
    """Adam's moments are not corrected for their start at zero."""
    _steps_with(damage, ADAM, bias_correction=False)


@mutant(1)
def epsilon_wrong(damage: Damage) -> None:
    """Adam's epsilon is 1e-4."""
    _steps_with(damage, ADAM, eps=1e-4)


@mutant(2, optimizer="SGD")
def momentum_ignored(damage: Damage) -> None:
    """SGD steps without momentum."""
    _steps_with(damage, "torch.optim:SGD", momentum=0.0)


def _second_group_has(damage: Damage, name: str) -> None:
    """The second parameter group steps with a value of the first."""

    def step(original: Any, self: Any, group: int) -> Any:
        groups = self.optimizer.param_groups
        with hyperparameters(groups[group], **{name: groups[0][name]}):
            damage.reached += group > 0
            return original(self, group)

    damage.around(ZERO_1_2, "_optimizer_step", step)


@mutant(2)
def second_groups_decay_ignored(damage: Damage) -> None:
    """The second parameter group decays like the first."""
    _second_group_has(damage, "weight_decay")


@mutant(1, scheduler=None)
def second_groups_lr_ignored(damage: Damage) -> None:
    """The second parameter group has the learning rate of the first."""
    _second_group_has(damage, "lr")


@mutant(2)
def schedule_one_step_late(damage: Damage) -> None:
    """The scheduler misses its first step."""

    def step(original: Any, self: Any, *args: Any) -> Any:
        if self.global_steps == 0:
            scheduler, self.lr_scheduler = self.lr_scheduler, None
            original(self, *args)
            self.lr_scheduler = scheduler
            damage.done()
            return None
        return original(self, *args)

    damage.around(ENGINE, "_take_model_step", step)


@mutant(0)
def scheduler_never_stepped(damage: Damage) -> None:
    """The learning rate stays what it is at the first step."""

    def step(original: Any, self: Any, *args: Any) -> Any:
        scheduler, self.lr_scheduler = self.lr_scheduler, None
        original(self, *args)
        self.lr_scheduler = scheduler
        damage.done()

    damage.around(ENGINE, "_take_model_step", step)


@mutant(2, offload_optimizer="cpu")
def adam_instead_of_adamw(damage: Damage) -> None:
    """AdamW is asked for, and decay is added to the gradient as in Adam."""

    def configure(original: Any, self: Any, params: Any, _adam_w: bool, **kwargs: Any) -> Any:
        damage.done()
        return original(self, params, False, **kwargs)

    damage.around(ENGINE, "get_optimizer_configuration", configure)


@mutant(3)
def step_counter_frozen(damage: Damage) -> None:
    """Adam corrects every step's bias as if it were the first."""

    def step(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        for state in self.state.values():
            state["step"] = 0
            damage.done()
        return original(self, *args, **kwargs)

    damage.around(ADAM, "step", step)


@mutant(1)
def steps_counted_from_two(damage: Damage) -> None:
    """Adam takes its first step for its second."""

    def step(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        for group in self.param_groups:
            if "step" not in group:
                group["step"] = 1
                damage.done()
        return original(self, *args, **kwargs)

    damage.around(ADAM, "step", step)


@mutant(1)
def third_step_skipped(damage: Damage) -> None:
    """Every third optimizer step does nothing."""
    calls: dict[int, int] = {}

    def step(original: Any, self: Any, group: int) -> Any:
        calls[group] = calls.get(group, 0) + 1
        if calls[group] % 3 == 0:
            damage.done()
            return None
        return original(self, group)

    damage.around(ZERO_1_2, "_optimizer_step", step)


@mutant(3, offload_optimizer="cpu")
def moments_reset(damage: Damage) -> None:
    """Adam's first moment is forgotten before each step."""

    def step(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        for state in self.state.values():
            state["exp_avg"].zero_()
            damage.done()
        return original(self, *args, **kwargs)

    damage.around(CPU_ADAM, "step", step)


@mutant(3, "bf16")
def master_weights_rounded(damage: Damage) -> None:
    """The fp32 master weights hold bf16 values after each step."""

    def step(original: Any, self: Any, sub_group_id: int) -> Any:
        found = original(self, sub_group_id)
        master: torch.Tensor = self.fp32_partitioned_groups_flat[sub_group_id]
        master.data.copy_(master.data.bfloat16())
        damage.done()
        return found

    damage.around(ZERO_3, "_optimizer_step", step)


@mutant(1, "bf16")
def bf16_ignored(damage: Damage) -> None:
    """bf16 is asked for, and fp32 runs."""

    def change(config: Any) -> None:
        config.bfloat16_config.enabled = False

    damage.configure(change)
