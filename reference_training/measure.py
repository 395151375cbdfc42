"""What a DeepSpeed engine says of its own steps."""

from __future__ import annotations

from typing import Any

import torch


def plain_gradient_norm(engine: Any) -> float | None:
    """Return the norm of the gradients that the coming `engine.step()` takes, before clipping.

    DeepSpeed computes this norm in its ZeRO and half-precision optimizers and keeps it for
    `get_global_grad_norm()`, but hands out None at stage 0 in fp32, where the optimizer is the
    plain one. There `engine.backward()` has averaged the gradients over the ranks by the time it
    returns from the last micro-batch, so that their norm can be read off the parameters.

    Returns:
        The 2-norm over all parameters; None where DeepSpeed computes it itself, and where it
        averages only inside `step()` (`managed_gradient_accumulation: false`).
    """
    if hasattr(engine.optimizer, "_global_grad_norm") or not manages_accumulation(engine):
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    scaler = getattr(engine, "torch_autocast_z0_gradscaler", None)
    scale = scaler.get_scale() if scaler else 1.0
    return float(torch.nn.utils.get_total_norm([g.float() for g in gradients])) / scale


def manages_accumulation(engine: Any) -> bool:
    """Say whether `engine.step()` is to be called after each micro-batch, which is the default.

    Older releases of DeepSpeed, such as 0.19.3, have nothing else.
    """
    managed = getattr(engine, "managed_gradient_accumulation", None)
    return managed is None or bool(managed())


def optimizer_steps(engine: Any) -> int:
    """Return how often the innermost optimizer says that it stepped.

    Adam's implementations keep the count: DeepSpeed's FusedAdam in the parameter group, torch's and
    the CPU one in the state of each parameter. Where none is kept (SGD), it is what the engine
    counted less what it skipped.
    """
    optimizer = engine.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    counts = [int(group["step"]) for group in optimizer.param_groups if "step" in group]
    counts += [int(state["step"]) for state in optimizer.state.values() if "step" in state]
    return max(counts, default=engine.global_steps - engine.skipped_steps)
