"""The trainings that are timed: the wiki's systems, round by round, each in a fresh world.

Each system trains the reference net, wide enough that ZeRO-3 cuts its layers and that one of them
is swapped, with Adam in bf16: parameters on NVMe do not train in fp32 on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.requirements import need_nvme
from reference_training import lightning_cifar10

#: Environment variable with the file that gets a line of JSON for each training.
REPORT = "BENCHMARK_REPORT"

WIDTH, BATCH = 4, 4

#: Optimizer steps that are not timed, and that are.
WARM, TIMED = 3, 10

SYSTEMS = [
    "plain zero0",
    *(f"{how} {mode}" for mode in lightning_cifar10.MODES for how in ("plain", "lightning")),
    "nested zero3",
]


def _rounds() -> list[tuple[int, str]]:
    """Another system begins each round."""
    found = []
    for number in range(int(os.environ["BENCHMARK_TESTS"])):
        first = number % len(SYSTEMS)
        found += [(number, system) for system in SYSTEMS[first:] + SYSTEMS[:first]]
    return found


class Clock:
    """Notes when each optimizer step ends, in seconds."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self, _number: int, _step: Any) -> None:
        self.ends.append(time.perf_counter())

    def periods(self) -> list[float]:
        """From the end of a step to that of the next: what the loop costs is in it."""
        ends = self.ends[WARM - 1 :]
        return [after - before for before, after in itertools.pairwise(ends)]


@pytest.mark.world_size(2)
@pytest.mark.parametrize(("number", "system"), _rounds())
def test_steps(
    number: int,
    system: str,
    rank: int,
    device: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """One training."""
    settings = request.config.stash[SETTINGS]
    folder = settings.nvme_path or tmp_path
    how, mode = system.split()
    if mode == "offload_nvme":
        need_nvme(settings, Path(folder))
    clock = Clock()
    args, gpu = _arguments(mode, str(folder)), device.type == "cuda"
    if how == "plain":
        _plain(args, gpu, clock)
    else:
        _lightning(args, gpu, clock, nested=how == "nested")
    swapped = _swapped(args)
    assert bool(swapped) == (mode == "offload_nvme")
    if rank == 0:
        line = {"round": number, "system": system, "periods": clock.periods(), "swapped": swapped}
        with Path(os.environ[REPORT]).open("a", encoding="utf-8") as report:
            report.write(json.dumps(line) + "\n")


def _arguments(mode: str, folder: str) -> argparse.Namespace:
    given = {
        "mode": "zero3" if mode == "zero0" else mode,
        "batch_size": BATCH,
        "width": WIDTH,
        "max_steps": WARM + TIMED,
        "precision": "bf16-true",
        "nvme_path": folder,
    }
    made = lightning_cifar10._parse([f"--{key}={value}" for key, value in given.items()])
    made.zero = mode != "zero0"
    return made


def _plain(args: argparse.Namespace, gpu: bool, clock: Clock) -> None:
    """DeepSpeed alone, under the config that Lightning makes of the same strategy."""
    from reference_training import data
    from reference_training.train import build_engine, run_steps
    from reference_training.workload import Images

    config = lightning_cifar10.strategy(args, gpu=gpu).config | {
        "train_micro_batch_size_per_gpu": args.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "AdamW", "params": {"lr": args.lr, "weight_decay": 0.0}},
        "bf16": {"enabled": True},
    }
    if not args.zero:
        config["zero_optimization"] = {"stage": 0}
    workload = Images(data.load(args.data), width=args.width)
    engine = build_engine(workload, config)
    try:
        run_steps(engine, workload, steps=args.max_steps, on_step=clock)
    finally:
        engine.destroy()


def _lightning(args: argparse.Namespace, gpu: bool, clock: Clock, *, nested: bool) -> None:
    """The program of `lightning_cifar10`.

    Args:
        args: of it.
        gpu: whether it runs on GPUs.
        clock: of its steps.
        nested: whether the step calls the module, ``self(images)``, as the wiki's does, or its net.
            Lightning runs the step within a call of the module, so that the former is a call within
            a call, at which DeepSpeed starts its trace of ZeRO-3's layers again.
    """
    from torch.nn import functional

    from reference_training.lightning_module import Classifier, ImageData
    from reference_training.lightning_record import StepRecorder

    class Module(Classifier):
        def training_step(self, batch: Any, _batch_idx: int) -> Any:
            images, labels = batch
            assert self.net is not None
            logits = self(images) if nested else self.net(images)
            return functional.cross_entropy(logits.float(), labels)

    args.accelerator = "gpu" if gpu else "cpu"
    module = Module(lr=args.lr, width=args.width, cpu_optimizer=args.mode != "zero3")
    trainer = lightning_cifar10._trainer(args, [StepRecorder(on_step=clock)])
    trainer.fit(module, datamodule=ImageData(args.data, batch_size=args.batch_size))


def _swapped(args: argparse.Namespace) -> int:
    """Bytes in swap files."""
    if args.mode != "offload_nvme":
        return 0
    return sum(path.stat().st_size for path in args.nvme_path.rglob("*.swp"))
