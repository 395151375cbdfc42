"""Train the reference net under a DeepSpeed config, in ranks that exist already."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from deepspeed.accelerator import get_accelerator
from torch import distributed
from torch.nn import functional

from reference_training import configs, measure, order
from reference_training.data import Dataset, load
from reference_training.model import Net
from reference_training.record import Record, Step

OnStep = Callable[[int, Step], None]


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
    engine = build_engine(ds_config, width=width, seed=seed)
    try:
        return run_steps(engine, dataset, steps=steps, seed=seed, on_step=on_step)
    finally:
        engine.destroy()


def build_engine(
    ds_config: Mapping[str, Any] | str | Path, *, width: int = 1, seed: int = 0
) -> Any:
    """Seed the generators of Python, NumPy and torch, build `Net`, and wrap it in an engine.

    The net is built outside `deepspeed.zero.Init`, whole on each rank, so that it starts from the
    same weights under every config. The caller destroys the engine.

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
    configs.require_optimizer(config)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (user code and libraries may draw from it)
    torch.manual_seed(seed)
    net = Net(width)
    engine, *_ = deepspeed.initialize(
        model=net, model_parameters=net.parameters(), config=copy.deepcopy(config)
    )
    return engine


def run_steps(
    engine: Any,
    dataset: Dataset,
    *,
    steps: int,
    seed: int = 0,
    start_step: int = 0,
    on_step: OnStep | None = None,
) -> Record:
    """Train an engine for `steps` optimizer steps, from `start_step` of the order of the images.

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}")
    done: list[Step] = []
    for number in range(start_step, start_step + steps):
        done.append(_step(engine, dataset, seed, number))
        if on_step is not None:
            on_step(number, done[-1])
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
        data=dataset.description,
        parameters=sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters()),
        start_step=start_step,
    )


def _step(engine: Any, dataset: Dataset, seed: int, number: int) -> Step:
    """Run one optimizer step: all its micro-batches forward and backward, and the update."""
    start = time.perf_counter()
    micro_batches = order.indices(
        len(dataset),
        seed=seed,
        step=number,
        rank=distributed.get_rank(engine.data_parallel_group),
        world_size=engine.dp_world_size,
        micro_batch_size=engine.train_micro_batch_size_per_gpu(),
        accumulation_steps=engine.gradient_accumulation_steps(),
    )
    dtype = next(engine.module.parameters()).dtype
    losses = []
    for count, chosen in enumerate(micro_batches, 1):
        images, labels = dataset.batch(chosen)
        logits = engine(images.to(engine.device, dtype))
        loss = functional.cross_entropy(logits.float(), labels.to(engine.device))
        engine.backward(loss)
        losses.append(loss.detach())
        if count < len(micro_batches) and measure.manages_accumulation(engine):
            engine.step()
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
    """Average once, at the end: the steps have only the collectives that DeepSpeed makes."""
    mean = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(mean)
    return tuple((mean / distributed.get_world_size()).tolist())
