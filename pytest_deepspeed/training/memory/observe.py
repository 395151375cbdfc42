"""Measures the memory of a training on a rank."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.training.memory import peak, walk
from pytest_deepspeed.training.memory.evidence import Held, RankMemory


def start() -> Meter:
    """Begins to measure on this rank; call it before the model and the engine are built."""
    return Meter()


class Meter:
    """Measures one training.

    Used so::

    meter = observe.start()
    engine = build_engine()
    ...                        # all steps but the last
    with meter.step():         # the last one
        ...                    # forward and backward of each micro-batch
        meter.look(engine)     # before the optimizer steps
        engine.step()
    memory = meter.finish(engine)
    """

    def __init__(self) -> None:
        import torch

        gc.collect()
        self._inherited = {id(t): t for t in walk.live_tensors()}
        self._host = peak.HostPeak()
        self._tensors: int | None = None
        self._gradients: Held | None = None
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def ignore(self, tensors: Iterable[Any]) -> None:
        """Counts none of these: copies that whoever looks at the training has made."""
        self._inherited.update((id(t), t) for t in tensors)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Finds the peak of tensor bytes inside; slows every operation down."""
        counter = peak.TensorPeak()
        counter.add(t for t in walk.live_tensors() if id(t) not in self._inherited)
        with counter.watch():
            yield
        self._tensors = counter.peak

    def look(self, engine: Any) -> None:
        """Looks at the gradients: call it after the last backward of a step, before ``step()``."""
        self._gradients = walk.account_of(engine).held()["gradients"]

    def finish(self, engine: Any) -> RankMemory:
        """What the rank holds now, after at least one step, and the peaks."""
        import torch
        import torch.distributed as dist

        host = self._host.read()  # first: what follows allocates
        account = walk.account_of(engine)
        for tensor in walk.live_tensors():
            if id(tensor) not in self._inherited and not account.holds(tensor):
                account.add(walk.Found("other", f"of no engine {tuple(tensor.shape)}", tensor))
        held = account.held()
        if self._gradients is not None:
            held["gradients"] = self._gradients
        estimate = _estimate(engine)
        rank = dist.get_rank()
        return RankMemory(
            rank=rank,
            held=held,
            largest=account.largest(),
            looked=self._gradients is not None,
            tensors=self._tensors,
            host=host,
            device=torch.cuda.max_memory_allocated() if self._cuda else None,
            device_reserved=torch.cuda.max_memory_reserved() if self._cuda else None,
            nvme=nvme_files(engine.config, rank),
            estimate_host=estimate[0],
            estimate_device=estimate[1],
        )


def nvme_files(ds_config: Mapping[str, Any], rank: int) -> dict[str, int]:
    """Path below ``nvme_path`` to bytes of each swap file of a rank."""
    zero = ds_config.get("zero_optimization") if isinstance(ds_config, Mapping) else None
    found = {}
    for what in ("optimizer", "param"):
        block = zero.get(f"offload_{what}") if isinstance(zero, Mapping) else None
        if not isinstance(block, Mapping) or block.get("device") != "nvme":
            continue
        for root, _, names in os.walk(str(block.get("nvme_path"))):
            # DeepSpeed has a folder "rank3" or "fp16params/rank3" for each rank.
            if re.search(rf"/rank{rank}(/|$)", root):
                for name in names:
                    path = Path(root, name)
                    found[str(path.relative_to(str(block["nvme_path"])))] = path.stat().st_size
    return found


def _estimate(engine: Any) -> tuple[int | None, int | None]:
    """Host bytes of all ranks and device bytes of one, by DeepSpeed's own estimators."""
    import torch.distributed as dist

    stage = engine.zero_optimization_stage()
    parameters = list(engine.module.parameters())
    total = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
    offload = engine.zero_use_cpu_optimizer()
    if stage == 2:
        from deepspeed.runtime.zero import stage_1_and_2

        figures = stage_1_and_2.estimate_zero2_model_states_mem_needs(
            total, num_gpus_per_node=dist.get_world_size(), cpu_offload=offload
        )
        return int(figures[0]), int(figures[1])
    if stage == 3:
        from deepspeed.runtime.zero import stage3

        layers = (m.parameters(recurse=False) for m in engine.module.modules())
        figures = stage3.estimate_zero3_model_states_mem_needs(
            total,
            max(sum(getattr(p, "ds_numel", p.numel()) for p in layer) for layer in layers),
            num_gpus_per_node=dist.get_world_size(),
            cpu_offload=offload,
            cpu_offload_params=engine.zero_offload_param() is not None,
            zero_init=False,
        )
        return int(figures[0]), int(figures[1])
    return None, None
