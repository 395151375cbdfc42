"""Train a workload under a DeepSpeed config, in ranks that exist already."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from deepspeed.accelerator import get_accelerator
from torch import distributed, nn

from reference_training import configs, measure
from reference_training.data import Dataset, load
from reference_training.record import Record, Step
from reference_training.workload import Images, Workload

OnStep = Callable[[int, Step], None]
BeforeUpdate = Callable[[int], None]


def train(
    ds_config: Mapping[str, Any] | str | Path,
    *,
    data: str | Path | Dataset | None = None,
    steps: int = 20,
    width: int = 1,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Record:
    """Train the reference net for `steps` optimizer steps; every rank calls this alike.

    Args:
        ds_config: DeepSpeed config, or the file that holds it. It is run as it is, not adapted.
        data: A data set, or what `reference_training.data.load` makes one of.
        steps: Optimizer steps.
        width: Of `Net`.
        seed: Of the weights, of the order of the images, and of the synthetic images.
        on_step: Called on each rank after each step with its number, from 0, and its values.

    Raises:
        ConfigError: the config cannot be read, or names no optimizer.
        DataError: the data cannot be loaded.
        RuntimeError: there is no process group.
    """
    dataset = data if isinstance(data, Dataset) else load(data, seed=seed)
    workload = Images(dataset, width=width, seed=seed)
    engine = build_engine(workload, ds_config, seed=seed)
    try:
        return run_steps(engine, workload, steps=steps, on_step=on_step)
    finally:
        engine.destroy()


def build_engine(
    workload: Workload, ds_config: Mapping[str, Any] | str | Path, *, seed: int = 0
) -> Any:
    """Seed the generators of Python, NumPy and torch, and wrap the workload's model in an engine.

    The model is built outside `deepspeed.zero.Init`, whole on each rank, so that it starts from
    the same weights under every config. A workload with an `initialize`, with the arguments of
    the one below, makes the engine itself. The caller destroys the engine.

    Raises:
        ConfigError: the config cannot be read, or names no optimizer.
        RuntimeError: there is no process group.
    """
    if not distributed.is_initialized():
        raise RuntimeError(
            "there is no process group: call deepspeed.init_distributed() first, "
            "in processes that torchrun started"
        )
    config = dict(ds_config) if isinstance(ds_config, Mapping) else configs.read(ds_config)
    own = getattr(workload, "initialize", None)
    if own is None:  # which may bring an optimizer
        configs.require_optimizer(config)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (user code and libraries may draw from it)
    torch.manual_seed(seed)
    model = workload.model()
    return (own or initialize)(
        model=model,
        model_parameters=workload.parameter_groups(model),
        config=copy.deepcopy(config),
    )


def initialize(*, model: nn.Module, model_parameters: Any, config: dict[str, Any]) -> Any:
    """Call `deepspeed.initialize`; what a workload that has an `initialize` does itself."""
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model_parameters, config=config)
    return engine


def run_steps(
    engine: Any,
    workload: Workload,
    *,
    steps: int,
    start_step: int = 0,
    before_update: BeforeUpdate | None = None,
    on_step: OnStep | None = None,
) -> Record:
    """Train an engine for `steps` optimizer steps, from step `start_step` of the workload.

    Args:
        engine: What `build_engine` returned, or continued from a checkpoint.
        workload: What it was built from.
        steps: Optimizer steps.
        start_step: The first one's number, counted over the whole training.
        before_update: Called with the step's number when its last micro-batch has gone backward,
            before the update.
        on_step: Called on each rank after each step with its number and its values.

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}")
    done: list[Step] = []
    for number in range(start_step, start_step + steps):
        done.append(_step(engine, workload, number, before_update))
        if on_step is not None:
            on_step(number, done[-1])
    return record_of(engine, done, data=workload.description, start_step=start_step)


def record_of(engine: Any, done: Sequence[Step], *, data: str, start_step: int) -> Record:
    """Return the record of these steps of an engine; collective.

    Args:
        engine: As it is after the last of them.
        done: At least one.
        data: What was trained on.
        start_step: The first one's number, counted over the whole training.
    """
    local_loss = tuple(step.loss for step in done)
    step_time = tuple(step.step_time for step in done)
    return Record(
        loss=_mean_over_ranks(local_loss, engine.device),
        local_loss=local_loss,
        lr=tuple(step.lr for step in done),
        grad_norm=tuple(step.grad_norm for step in done),
        step_time=step_time,
        samples_per_second=engine.train_batch_size() / statistics.median(step_time),
        optimizer_steps=measure.optimizer_steps(engine),
        skipped_steps=engine.skipped_steps,
        world_size=distributed.get_world_size(),
        rank=distributed.get_rank(),
        train_batch_size=engine.train_batch_size(),
        data=data,
        parameters=sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters()),
        start_step=start_step,
    )


def _step(engine: Any, workload: Workload, number: int, before_update: BeforeUpdate | None) -> Step:
    """Run one optimizer step: all its micro-batches forward and backward, and the update."""
    start = time.perf_counter()
    accumulation_steps = engine.gradient_accumulation_steps()
    losses = []
    for micro_step in range(accumulation_steps):
        batch = workload.micro_batch(
            step=number,
            micro_step=micro_step,
            accumulation_steps=accumulation_steps,
            rank=distributed.get_rank(engine.data_parallel_group),
            world_size=engine.dp_world_size,
            micro_batch_size=engine.train_micro_batch_size_per_gpu(),
        )
        loss = workload.loss(engine, batch)
        engine.backward(loss)
        losses.append(loss.detach())
        if micro_step + 1 < accumulation_steps and measure.manages_accumulation(engine):
            engine.step()
    if before_update is not None:
        before_update(number)
    lr = float(engine.get_lr()[0])
    grad_norm = measure.plain_gradient_norm(engine)
    engine.step()
    if grad_norm is None:
        grad_norm = engine.get_global_grad_norm()
    local_loss = float(torch.stack(losses).mean())
    get_accelerator().synchronize()
    step_time = time.perf_counter() - start
    applied = grad_norm is not None and engine.was_step_applied()
    return Step(
        loss=local_loss,
        lr=lr,
        grad_norm=float(grad_norm) if applied else None,
        step_time=step_time,
        samples_per_second=engine.train_batch_size() / step_time,
    )


def _mean_over_ranks(values: tuple[float, ...], device: Any) -> tuple[float, ...]:
    """Return the means of the ranks' values; collective.

    Called once, at the end: the steps have only the collectives that DeepSpeed makes.
    """
    mean = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(mean)
    return tuple((mean / distributed.get_world_size()).tolist())
