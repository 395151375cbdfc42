"""The tests of storage faults: copied as ``test_victims.py`` into the directory of a session.

``scene.json`` beside it says what happens to which directory, at which step and from which rank.
"""

import json
import os
import shutil
from pathlib import Path

import deepspeed
import pytest
import torch

HERE = Path(__file__).parent
SCENE = json.loads(HERE.joinpath("scene.json").read_text())
STEPS = 6

#: Of each layer: DeepSpeed keeps in memory what is less than 1 MiB (its ``MIN_AIO_BYTES``).
WIDTH = 1024


def _config(stage, offload):
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0, "sub_group_size": 1}
    if offload:
        zero["offload_optimizer"] = {"device": "nvme", "pin_memory": False}
        zero["offload_param"] = {
            "device": "nvme",
            "pin_memory": False,
            "buffer_size": WIDTH * WIDTH,
        }
    return {
        "train_micro_batch_size_per_gpu": 2,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
        "bf16": {"enabled": True},
        "zero_optimization": zero,
        "aio": {"block_size": 4096},
    }


def _engine(config):
    with deepspeed.zero.Init(
        config_dict_or_path=config, enabled=config["zero_optimization"]["stage"] == 3
    ):
        model = torch.nn.Sequential(
            *(torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(4))
        )
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=config
    )
    return engine


def _train(engine, at_step):
    for step in range(STEPS):
        at_step(step)
        out = engine(torch.ones(2, WIDTH, dtype=torch.bfloat16, device=engine.device))
        engine.backward(out.float().pow(2).mean())
        engine.step()


@pytest.mark.world_size(2)
@pytest.mark.ds_config(_config(3, offload=True))
def test_swaps(ds_config, rank):
    """A training that swaps weights and optimizer states."""
    (folder,) = {block["nvme_path"] for block in _offloads(ds_config)}

    def at_step(step):
        if SCENE.get("removed") == [step, rank]:
            shutil.rmtree(folder)
        elif "removed" not in SCENE and step == 1:
            assert list(Path(folder).rglob("*.swp")), "nothing was swapped"

    _train(_engine(ds_config), at_step)


def _offloads(config):
    zero = config["zero_optimization"]
    return [zero["offload_optimizer"], zero["offload_param"]]


@pytest.mark.world_size(2)
@pytest.mark.ds_config(_config(2, offload=False))
def test_saves(ds_config):
    """A checkpoint after a training."""
    engine = _engine(ds_config)
    _train(engine, lambda step: None)
    engine.save_checkpoint(os.fspath(HERE / "checkpoint"), tag="last")


@pytest.mark.world_size(2)
def test_after():
    """A test that needs no storage."""
    ones = torch.ones(4)
    torch.distributed.all_reduce(ones)
    assert ones.sum() == 4 * torch.distributed.get_world_size()
