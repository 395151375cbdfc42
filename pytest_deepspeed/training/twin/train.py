"""The training of a config in plain torch, on the ranks of the process group there is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.training import accelerator
from pytest_deepspeed.training.parity.compare import History
from pytest_deepspeed.training.twin import optimizers, schedules
from pytest_deepspeed.training.twin.reading import (
    batch_sizes,
    clipping,
    dtype_of,
    is_zero_muon,
    uncovered,
)

if TYPE_CHECKING:
    from torch import Tensor

    from reference_training.workload import Workload

__all__ = ["train", "uncovered"]


def train(
    workload: Workload,
    ds_config: Mapping[str, Any],
    *,
    steps: int,
    start_step: int = 0,
    dtype: str | None = None,
    device: Any = None,
) -> History:
    """Train a workload as a config says; every rank of the process group calls this alike.

    In bf16 a copy of the model computes, and fp32 master weights, which start from the rounded
    ones, are updated by gradients that are added up and averaged in fp32. A parameter that gets no
    gradient in a step counts as one with a gradient of zero, as DeepSpeed has it: momentum and
    decay still move it.

    Args:
        workload: what is trained.
        ds_config: one that is not `uncovered`.
        steps: optimizer steps.
        start_step: the first step's number in the order of the batches. Weights, optimizer and
            schedule start anew whatever it is.
        dtype: of forward and backward passes, ``"fp32"`` or ``"bf16"``; the config's unless given.
        device: where to train; that of this rank unless given, since NCCL moves no CPU tensors
            and a dropout draws other numbers on another device.

    Raises:
        ValueError: the config is uncovered, its batch sizes do not fit the world size, or there is
            no such dtype.
    """
    from torch import distributed

    reason = uncovered(ds_config)
    if reason is not None:
        raise ValueError(f"no twin of this config: {reason}")
    if dtype not in (None, "fp32", "bf16"):
        raise ValueError(f"the twin trains in fp32 and bf16, not in {dtype!r}")
    device = device or accelerator.device()
    twin = _Twin(workload, ds_config, dtype or dtype_of(ds_config), device)
    start = twin.weights()
    done = [twin.step(number, start_step + number) for number in range(steps)]
    losses, norms, rates, parameters = zip(*done, strict=True)
    return History(
        dtype=twin.dtype,
        loss=_mean_over_ranks(losses, distributed.get_world_size(), device),
        grad_norm=(None,) * steps if is_zero_muon(ds_config) else norms,
        lr=rates,
        parameters=parameters,
        moments=twin.moments(leave_out="momentum_buffer" if is_zero_muon(ds_config) else ""),
        optimizer_steps=steps,
        start=start,
    )


class _Twin:
    """A model, its master weights and their optimizer. In fp32 the masters are the weights."""

    def __init__(
        self, workload: Workload, ds_config: Mapping[str, Any], dtype: str, device: Any
    ) -> None:
        import torch
        from torch import distributed

        self.workload = workload
        self.dtype = dtype
        self.clipping = clipping(ds_config)
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self.micro_batch_size, self.accumulation = batch_sizes(ds_config, self.world_size)
        self.model = workload.model().to(device)
        if dtype == "bf16":  # buffers stay in fp32, as `_cast_module_mixed_precision` has it
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        groups = [
            {**group, "params": [p for p in group["params"] if p.requires_grad]}
            for group in workload.parameter_groups(self.model)
        ]
        trained = [p for group in groups for p in group["params"]]
        self.masters = {p: p.detach().float().requires_grad_() for p in trained}
        if dtype == "fp32":
            self.masters = {p: p for p in trained}
        names = {self.masters.get(p, p): name for name, p in self.model.named_parameters()}
        self.names = names
        groups = [{**g, "params": [self.masters[p] for p in g["params"]]} for g in groups]
        self.optimizer = optimizers.optimizer(ds_config["optimizer"], names, groups)
        own = getattr(workload, "schedule", None)  # which may have one, and no config says
        self.schedule = (
            own()
            if own
            else schedules.schedule(
                ds_config.get("scheduler"),
                base=[group["lr"] for group in self.optimizer.param_groups],
                has_betas="betas" in self.optimizer.defaults,
            )
        )

    def step(
        self, number: int, batch_step: int
    ) -> tuple[float, float, tuple[float, ...], dict[str, Tensor]]:
        """Loss on this rank, gradient norm, rates and the weights after it."""
        rates = self._set_rates(number)
        gradients, loss = self._gradients(batch_step)
        norm = self._clip(gradients)
        for parameter, gradient in gradients.items():
            self.masters[parameter].grad = gradient
        self.optimizer.step()
        for master in self.masters.values():
            master.grad = None
        self._round()
        return loss, norm, rates, self.weights()

    def moments(self, *, leave_out: str) -> dict[str, dict[str, Tensor]]:
        import torch

        moments: dict[str, dict[str, Tensor]] = {}
        for master, state in self.optimizer.state.items():
            for key, value in state.items():
                if torch.is_tensor(value) and value.dim() > 0 and key != leave_out:
                    copy = value.detach().to("cpu", copy=True)
                    moments.setdefault(self.names[master], {})[key] = copy
        return moments

    def weights(self) -> dict[str, Tensor]:
        return {
            name: self.masters.get(p, p).detach().float().to("cpu", copy=True)
            for name, p in self.model.named_parameters()
        }

    def _set_rates(self, number: int) -> tuple[float, ...]:
        rates = self.schedule.lr(number)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if self.schedule.betas is not None:
            betas = self.schedule.betas(number)
            for group, pair in zip(self.optimizer.param_groups, betas, strict=True):
                group["betas"] = pair
        return tuple(rates)

    def _gradients(self, batch_step: int) -> tuple[dict[Any, Tensor], float]:
        """Sum over the micro-batches, mean over the ranks, zeros where there is none; in fp32."""
        import torch
        from torch import distributed

        total = {p: torch.zeros_like(p, dtype=torch.float32) for p in self.masters}
        losses = []
        for micro_step in range(self.accumulation):
            batch = self.workload.micro_batch(
                step=batch_step,
                micro_step=micro_step,
                accumulation_steps=self.accumulation,
                rank=self.rank,
                world_size=self.world_size,
                micro_batch_size=self.micro_batch_size,
            )
            loss = self.workload.loss(self.model, batch)
            torch.autograd.backward(loss / self.accumulation)
            losses.append(float(loss.detach()))
            for parameter in self.masters:
                if parameter.grad is not None:
                    total[parameter] += parameter.grad
                    parameter.grad = None
        flat = torch.cat([gradient.flatten() for gradient in total.values()])
        distributed.all_reduce(flat)
        parts = torch.split(flat / self.world_size, [p.numel() for p in total])
        mean = {p: part.view(p.shape) for p, part in zip(total, parts, strict=True)}
        return mean, sum(losses) / len(losses)

    def _clip(self, gradients: dict[Any, Tensor]) -> float:
        """Scale by the global norm, `min(1, clipping / (norm + 1e-6))`, and return the norm."""
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        if self.clipping > 0 and norm + 1e-6 > self.clipping:
            for gradient in gradients.values():
                gradient.mul_(self.clipping / (norm + 1e-6))
        return norm

    def _round(self) -> None:
        """Copy the masters into the weights that compute."""
        import torch

        if self.dtype != "fp32":
            with torch.no_grad():
                for parameter, master in self.masters.items():
                    parameter.copy_(master)


def _mean_over_ranks(values: tuple[float, ...], world_size: int, device: Any) -> tuple[float, ...]:
    import torch
    from torch import distributed

    mean = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(mean)
    return tuple((mean / world_size).tolist())
