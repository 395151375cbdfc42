"""The trainings of the tests, run on two ranks by torchrun: `trainings.py RESULT.json`."""

import json
import os
import sys
from pathlib import Path

import deepspeed
from torch import distributed

from reference_training import configs
from reference_training.data import load
from reference_training.train import build_engine, run_steps, train
from reference_training.workload import Images


def _with(stage, **changes):
    return {**configs.load(stage), **changes}


def _runs():
    synthetic, digits = load("synthetic"), load("digits")
    accumulated = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4}
    for stage in range(4):
        yield f"zero{stage}", train(configs.path(stage), data=synthetic)
        yield f"zero{stage} digits", train(configs.load(stage), data=digits)
    for stage in (0, 2):
        config = _with(stage, **accumulated)
        yield f"zero{stage} accumulated", train(config, data=synthetic)
    config = _with(0, **accumulated, managed_gradient_accumulation=False)
    yield "zero0 unmanaged", train(config, data=synthetic)
    sgd = {"optimizer": {"type": "SGD", "params": {"lr": 0.1}}}
    yield "sgd", train(_with(0, **sgd), data=synthetic, steps=3)
    yield "bf16", train(_with(2, bf16={"enabled": True}), data=synthetic)

    images = Images(synthetic)
    engine = build_engine(images, configs.load(1))
    yield "first half", run_steps(engine, images, steps=10)
    yield "second half", run_steps(engine, images, steps=10, start_step=10)
    engine.destroy()


def main():
    """Gather the records of both ranks and let rank 0 write them."""
    deepspeed.init_distributed()
    records = {name: json.loads(record.to_json()) for name, record in _runs()}
    both = [None, None]
    distributed.all_gather_object(both, records)
    if os.environ["RANK"] == "0":
        Path(sys.argv[1]).write_text(
            json.dumps({name: [r[name] for r in both] for name in both[0]})
        )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
