"""What must be true of a user's workload before a comparison of its trainings proves anything."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.training.twin.reading import batch_sizes
from pytest_deepspeed.training.workload.adapter import Adapter
from pytest_deepspeed.training.workload.contract import WorkloadError

if TYPE_CHECKING:
    from torch import nn


def verify(workload: Any, ds_config: Mapping[str, Any], *, other_sizes: bool = False) -> None:
    """Builds the model twice and computes a loss of each; on every rank of the world.

    Args:
        workload: one that is not a user's passes.
        ds_config: what it shall be trained under.
        other_sizes: whether worlds of other sizes train it too.

    Raises:
        WorkloadError: the two differ, or the loss draws where it cannot be drawn again.
    """
    if not isinstance(workload, Adapter):
        return
    first, second = workload.model(), workload.model()
    if name := _differing(first, second):
        raise _error(
            workload,
            f"model() returned other weights the second time, {name} first: seed what they are"
            " drawn from in model(), or load them from a file",
        )
    workload.parameter_groups(first)
    (one, draws), (other, _) = (_loss(workload, model, ds_config) for model in (first, second))
    if not math.isclose(one, other, rel_tol=1e-5) and not (math.isnan(one) and math.isnan(other)):
        raise _error(
            workload,
            f"the same weights and samples gave the loss {one:.7g} and then {other:.7g}: what"
            " dataset, collate_fn or loss() draws must come from torch, random or NumPy's global"
            " generators, which are seeded before each call",
        )
    if draws and other_sizes:
        raise _error(
            workload,
            "loss() draws random numbers, as dropout does, and at other world sizes it draws"
            " others: set dropout to 0 in the model that the checks train",
        )


def _differing(one: nn.Module, other: nn.Module) -> str:
    """The first entry of their state that differs; empty where none does."""
    states = (one.state_dict(), other.state_dict())
    for name in {**states[0], **states[1]}:
        if any(name not in state for state in states):
            return name
        if _digest(states[0][name]) != _digest(states[1][name]):
            return name
    return ""


def _digest(value: Any) -> Any:
    import torch

    if not torch.is_tensor(value):
        return repr(value)
    flat = value.detach().contiguous().flatten()
    return value.dtype, value.shape, zlib.crc32(flat.view(torch.uint8).numpy().tobytes())


def _loss(workload: Adapter, model: nn.Module, ds_config: Mapping[str, Any]) -> tuple[float, bool]:
    """The loss of this rank's first micro-batch, and whether it drew random numbers."""
    import torch
    from torch import distributed

    from pytest_deepspeed.training.workload.adapter import seed_all

    world_size = distributed.get_world_size()
    try:
        micro, accumulation = batch_sizes(ds_config, world_size)
    except ValueError:  # DeepSpeed says so better
        micro, accumulation = 1, 1
    batch = workload.micro_batch(
        step=0,
        micro_step=0,
        accumulation_steps=accumulation,
        rank=distributed.get_rank(),
        world_size=world_size,
        micro_batch_size=micro,
    )
    seed_all(batch.seed)
    before = torch.get_rng_state()
    loss = float(workload.loss(model, batch).detach())
    return loss, not torch.equal(before, torch.get_rng_state())


def _error(workload: Adapter, text: str) -> WorkloadError:
    return WorkloadError(f"workload {workload.description}: {text}")
