"""GPUs, backends and forking, as the doctor shows them."""

import sys

import pytest

from pytest_deepspeed.doctor import hardware
from pytest_deepspeed.values.checkup import Line

PIP = f"{sys.executable} -m pip install"
DEEPSPEED = {"version": "0.19.8", "threads": 1, "cuda_initialised": False}


def hardware_lines(device, backend, **answers):
    """The lines of the hardware, by topic, where DeepSpeed imports."""
    found = hardware.lines(device, backend, {"deepspeed": DEEPSPEED, **answers})
    return {line.topic: line for line in found}


def test_no_gpu_in_a_slurm_cluster(programs):
    """Protects: where jobs can be had, the line that gets a GPU."""
    if hardware.granted_gpus():
        pytest.skip("this machine has a GPU")
    programs(salloc="")

    assert hardware_lines("cpu", "gloo")["gpu"] == Line(
        "--",
        "gpu",
        "none: ranks compute on the CPU, without fp16 and NCCL",
        "salloc --gpus-per-node=1",
    )


def test_names_of_gpus(programs):
    """Protects: GPUs of one model are counted, with their memory as nvidia-smi says it."""
    programs(**{"nvidia-smi": "printf 'NVIDIA A100, 40960\\nNVIDIA A100, 40960\\nTesla T4, 15360'"})

    assert hardware._named() == ["2 x NVIDIA A100, 40 GiB", "1 x Tesla T4, 15 GiB"]


def test_backends():
    """Protects: a backend counts as there where it has added up."""
    on_cpu = hardware_lines("cpu", "gloo", gloo={"sum": 1.0})
    on_cuda = hardware_lines("cuda", "nccl", gloo={"sum": 1.0}, nccl={"sum": 1.0})

    assert on_cpu["backend"] == Line(
        "ok", "backend", "gloo, an all-reduce on the CPU works; ranks use gloo"
    )
    assert on_cuda["backend"] == Line(
        "ok", "backend", "gloo and nccl, an all-reduce on a GPU works; ranks use nccl"
    )


def test_backends_that_fail():
    """Protects: without the backend that ranks use nothing runs; the other one is proposed."""
    no_nccl = hardware_lines("cuda", "nccl", gloo={}, nccl={"error": "DistBackendError: no NET"})
    no_gloo = hardware_lines("cpu", "gloo", gloo={"error": "RuntimeError: no interface"})
    unused = hardware_lines("cuda", "gloo", gloo={}, nccl={"error": "DistBackendError: no NET"})

    assert no_nccl["backend"] == Line(
        "!!", "backend", "nccl: DistBackendError: no NET", "--ds-backend=gloo"
    )
    assert no_gloo["backend"] == Line(
        "!!",
        "backend",
        "gloo: RuntimeError: no interface",
        "name a network interface that is up: export GLOO_SOCKET_IFNAME=lo",
    )
    assert unused["backend"].mark == "--"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, Line("ok", "forking", "imports start no thread and no CUDA: ranks are forked")),
        (
            {"threads": 3},
            Line("--", "forking", "ranks are spawned: imports start 2 threads"),
        ),
        (
            {"version": "0.18.9", "cuda_initialised": True},
            Line(
                "--",
                "forking",
                "ranks are spawned, seconds for each test: importing DeepSpeed 0.18.9 (0.19.3 and"
                " newer leave CUDA alone) initialises CUDA",
                f"{PIP} 'deepspeed>=0.19.3'",
            ),
        ),
    ],
)
def test_forking(changes, line):
    """Protects: what keeps the agent from forking is named, by the version where that decides."""
    lines = hardware_lines("cpu", "gloo", gloo={}, deepspeed={**DEEPSPEED, **changes})

    assert lines["forking"] == line
