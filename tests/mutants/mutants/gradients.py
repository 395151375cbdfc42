"""Gradients that are scaled, reduced, accumulated or clipped wrongly."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from mutants.damage import ENGINE, ZERO_1_2, ZERO_3, Damage, mutant

STAGE_3 = "deepspeed.runtime.zero.stage3"


@mutant(2, optimizer="AdamW")
def gradients_divided_twice(damage: Damage) -> None:
    """The mean over ranks is divided by the world size once more."""

    def average(original: Any, self: Any, tensor: torch.Tensor, dtype: torch.dtype) -> Any:
        tensor.div_(dist.get_world_size())
        damage.done()
        return original(self, tensor, dtype)

    damage.around(ZERO_1_2, "average_tensor", average)


@mutant(3, optimizer="SGD")
def gradients_summed_not_averaged(damage: Damage) -> None:
    """Gradients are summed over the ranks and not divided by their number."""

    def reduce(original: Any, tensors: list[torch.Tensor], group: Any) -> list[torch.Tensor]:
        damage.done()
        return [part.mul_(dist.get_world_size()) for part in original(tensors, group)]

    damage.around(STAGE_3, "reduce_scatter_coalesced", reduce)


@mutant(2, optimizer="SGD")
def bucket_not_reduced(damage: Damage) -> None:
    """The first bucket of each step is never reduced: a rank keeps its own gradient of it."""
    steps: set[int] = set()

    def average(original: Any, self: Any, tensor: torch.Tensor, dtype: torch.dtype) -> Any:
        step = len(steps_taken)
        if step not in steps:
            steps.add(step)
            damage.done()
            return None
        return original(self, tensor, dtype)

    steps_taken: list[int] = []

    def count(original: Any, self: Any, *args: Any) -> Any:
        steps_taken.append(1)
        return original(self, *args)

    damage.around(ZERO_1_2, "average_tensor", average)
    damage.around(ZERO_1_2, "step", count)


@mutant(0)
def ranks_not_reduced(damage: Damage) -> None:
    """Stage 0 reduces nothing: each rank trains alone."""
    damage.answer(ENGINE, "allreduce_gradients", None)


@mutant(3)
def one_ranks_gradient(damage: Damage) -> None:
    """All ranks step with the gradient of rank 0 in place of the mean."""

    def reduce(original: Any, tensors: list[torch.Tensor], group: Any) -> list[torch.Tensor]:
        damage.done()
        for tensor in tensors:
            tensor.mul_(dist.get_world_size() if dist.get_rank() == 0 else 0)
        parts: list[torch.Tensor] = original(tensors, group)
        return parts

    damage.around(STAGE_3, "reduce_scatter_coalesced", reduce)


@mutant(3, gas=2)
def last_micro_batch_dropped(damage: Damage) -> None:
    """The gradient of the last micro-batch is not added to the accumulated one."""

    def partition(original: Any, self: Any, params: Any, grads: list[torch.Tensor]) -> Any:
        if self.is_gradient_accumulation_boundary():
            grads = [torch.zeros_like(grad) for grad in grads]
            damage.done()
        return original(self, params, grads)

    damage.around(ZERO_3, "partition_grads", partition)


@mutant(3, gas=2, offload_optimizer="cpu")
def first_micro_batch_dropped(damage: Damage) -> None:
    """The second micro-batch overwrites the gradient of the first instead of adding to it."""

    def partition(original: Any, self: Any, params: Any, grads: list[torch.Tensor]) -> Any:
        micro_step, self.micro_step_id = self.micro_step_id, 0
        damage.reached += micro_step > 0
        try:
            return original(self, params, grads)
        finally:
            self.micro_step_id = micro_step

    damage.around(ZERO_3, "partition_grads", partition)


@mutant(1, gas=2)
def accumulation_not_divided(damage: Damage) -> None:
    """Accumulated gradients are the sum of the micro-batches, not their mean."""

    def backward(original: Any, self: Any, loss: torch.Tensor, **kwargs: Any) -> Any:
        damage.done()
        return original(self, loss, **{**kwargs, "scale_wrt_gas": False})

    damage.around(ENGINE, "backward", backward)


@mutant(1)
def one_gradient_zeroed(damage: Damage) -> None:
    """The gradient of one parameter is lost."""

    def reduce(original: Any, self: Any, param: torch.Tensor, i: int) -> Any:
        gradient = self.get_gradient_for_reduction(param)
        if i == 0 and param is self.bit16_groups[0][0] and gradient is not None:
            gradient.zero_()
            damage.done()
        return original(self, param, i)

    damage.around(ZERO_1_2, "reduce_independent_p_g_buckets_and_remove_grads", reduce)


@mutant(2, offload_optimizer="cpu")
def one_gradient_negated(damage: Damage) -> None:
    """The gradient of one parameter has the wrong sign: its norm is right."""

    def reduce(original: Any, self: Any, param: torch.Tensor, i: int) -> Any:
        gradient = self.get_gradient_for_reduction(param)
        if i == 0 and param is self.bit16_groups[0][0] and gradient is not None:
            gradient.neg_()
            damage.done()
        return original(self, param, i)

    damage.around(ZERO_1_2, "reduce_independent_p_g_buckets_and_remove_grads", reduce)


@mutant(2, optimizer="SGD")
def clipping_skipped(damage: Damage) -> None:
    """Gradients are not clipped; their norm is reported as ever."""
    damage.answer(ZERO_1_2, "unscale_and_clip_grads", None)


@mutant(3)
def clipping_by_local_norm(damage: Damage) -> None:
    """Each rank clips by the norm of its own partition instead of the global one."""

    def clip(original: Any, self: Any, sub_group_id: int, _norm: Any) -> Any:
        gradient = self.fp32_partitioned_groups_flat[sub_group_id].grad
        damage.done()
        return original(self, sub_group_id, gradient.norm())

    damage.around(ZERO_3, "unscale_and_clip_grads", clip)


@mutant(1, optimizer="SGD")
def stale_gradient(damage: Damage) -> None:
    """From the third step on, a step uses the gradients of the step before it."""
    held: list[dict[int, list[torch.Tensor]]] = []

    def step(original: Any, self: Any, *args: Any) -> Any:
        now = {
            group: [gradient.clone() for gradient in gradients]
            for group, gradients in self.averaged_gradients.items()
        }
        if len(held) >= 2:
            self.averaged_gradients.update(held[-1])
            damage.done()
        held.append(now)
        return original(self, *args)

    damage.around(ZERO_1_2, "step", step)


@mutant(1)
def gradients_rounded(damage: Damage) -> None:
    """A training in fp32 reduces its gradients in bf16."""

    def average(original: Any, self: Any, tensor: torch.Tensor, dtype: torch.dtype) -> Any:
        tensor.copy_(tensor.bfloat16())
        damage.done()
        return original(self, tensor, dtype)

    damage.around(ZERO_1_2, "average_tensor", average)


@mutant(3, optimizer="SGD")
def padding_in_the_norm(damage: Damage) -> None:
    """Elements that only pad a partition count in the gradient norm."""

    def norm(original: Any, self: Any, gradients: list[torch.Tensor], params: Any) -> Any:
        padded = []
        for gradient, param in zip(gradients, params, strict=True):
            real = param.ds_numel - dist.get_rank() * param.partition_numel()
            padded.append(gradient.clone())
            if 0 < real < gradient.numel():
                padded[-1].view(-1)[real:] = 1.0
                damage.done()
        return original(self, padded, params)

    damage.around(ZERO_3, "get_grad_norm_direct", norm)
