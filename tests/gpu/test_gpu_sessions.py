"""Whole sessions on a GPU: shared devices, contexts that are left, CUDA in an import."""

import re

from inner import text

SHARED = """
import os
import deepspeed
import pytest
import torch
import torch.distributed as dist
from reference_training.train import build_engine, run_steps
from reference_training.trap import Trap


@pytest.mark.world_size(2)
def test_shared_gpu(device, rank):
    tensor = torch.full((4,), float(rank + 1), device=device)
    dist.all_reduce(tensor)
    assert tensor.tolist() == [3.0] * 4
    assert device.index == rank % torch.cuda.device_count()
    assert os.environ["LOCAL_RANK"] == str(rank)


@pytest.mark.world_size(2)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_engine(stage, device):
    config = {
        "train_batch_size": 8,
        "optimizer": {"type": "SGD", "params": {"lr": 0.1}},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
    }
    workload = Trap(("tied", "odd_shapes"))
    engine = build_engine(workload, config)
    assert engine.device == device
    record = run_steps(engine, workload, steps=3)
    assert record.optimizer_steps == 3
    engine.destroy()
"""

LEFT = """
import subprocess
import sys
import time
import pytest

CODE = "import time, torch; torch.zeros(2**20, device='cuda'); print(flush=True); time.sleep(600)"


@pytest.mark.world_size(1)
def test_left():
    child = subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, start_new_session=True
    )
    child.stdout.readline()
"""

ASSERTED = """
import pytest
import torch


@pytest.mark.world_size(1)
def test_kernel(device):
    torch.zeros(2, device=device)[torch.tensor([7], device=device)]
"""

TOUCHED = """
import pytest
import torch

HERE = torch.zeros(1, device="cuda")


@pytest.mark.world_size(1)
def test_spawned(device):
    assert torch.ones(2, device=device).sum().item() == 2
"""


def test_two_ranks_share_a_gpu_with_gloo(inner_session):
    """Protects: gloo on one GPU: collectives, and engines of all stages, on LOCAL_RANK 0 and 1."""
    session = inner_session(SHARED, args=["--ds-device=cuda", "--ds-backend=gloo"])

    assert session.status == 0
    assert session.section("short test summary info").count("PASSED") == 5


def test_a_context_that_is_left_is_told(inner_session):
    """Protects: a process that a test leaves is told with the memory of the GPU that it held."""
    session = inner_session(LEFT, args=["--ds-device=cuda"])

    assert re.search(
        r"RankLeakWarning: a process was left running and was killed: .+ \(pid N\), with a GPU"
        r" context with [\d.]+ MiB",
        session.section("warnings summary"),
    )


def test_a_kernel_that_fails_fails_its_test(inner_session):
    """Protects: the GPU is waited for, so that an error of a kernel is that of the test."""
    session = inner_session(ASSERTED, args=["--ds-device=cuda"])

    assert session.status == 1
    assert "device-side assert triggered" in session.output


def test_a_module_that_touches_cuda_is_named(inner_session):
    """Protects: its ranks are spawned, and the warning has the line that made the context."""
    session = inner_session(TOUCHED, args=["--ds-device=cuda"])

    assert session.section("warnings summary").startswith(
        text(
            """
            test_spawned.py::test_spawned
              DIR/test_spawned.py:7: RankSpawnWarning: test_spawned.py:4: HERE = torch.zeros(1, device="cuda") has initialised CUDA: ranks are spawned, not forked
            """  # noqa: E501
        )
    )
    assert session.status == 0
