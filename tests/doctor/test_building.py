"""The compiler, the CUDA toolkit, libaio and the ops, there and missing."""

import os
import re
import sys
from pathlib import Path

import pytest

from pytest_deepspeed.doctor import building, installing
from pytest_deepspeed.values.checkup import Line

ROOT = "" if os.geteuid() == 0 else "sudo "


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache in which no op is built."""
    monkeypatch.setenv("PYTEST_DS_OPS_CACHE", str(tmp_path / "ops"))


def built_lines(device="cpu", **answers):
    """The lines of what is compiled, by topic."""
    return {line.topic: line for line in building.lines(device, answers)}


def test_a_compiler(programs):
    """Protects: the versions are those that the programs name."""
    programs(
        **{"c++": "echo 'c++ (Debian 12.2.0-14+deb12u1) 12.2.0'", "ninja": "echo 1.13.0.git.kit"}
    )
    header = Path(building.sysconfig.get_path("include"), "Python.h").is_file()
    line = built_lines()["compiler"]

    assert re.sub(r"ninja [\d.]+", "ninja N", line.text) == (
        "c++ 12.2.0, ninja N, Python.h"
        if header
        else "no Python.h: ops that are not built cannot be"
    )


def test_no_compiler(programs):
    """Protects: the package that brings one, in the words of this system."""
    programs()

    assert built_lines()["compiler"] == Line(
        "--",
        "compiler",
        "no C++ compiler (c++): ops that are not built cannot be",
        f"{ROOT}apt-get install g++",
    )


def test_a_compiler_that_is_named_wrongly(programs, monkeypatch):
    """Protects: CXX is looked at, as a build does."""
    programs(**{"c++": "echo 1.0"})
    monkeypatch.setenv("CXX", "/opt/nothing/g++")

    assert built_lines()["compiler"].text == (
        "no C++ compiler (/opt/nothing/g++): ops that are not built cannot be"
    )


def test_a_compiler_on_a_cluster(programs, monkeypatch):
    """Protects: where software comes by modules, the module; where by dnf, its package."""
    programs(dnf="")
    assert installing.command("compiler") == f"{ROOT}dnf install gcc-c++"

    monkeypatch.setenv("LMOD_CMD", "/usr/share/lmod/lmod/libexec/lmod")
    assert installing.command("compiler") == "module load gcc"
    assert installing.command("cuda") == "module load cuda"
    assert installing.command("libaio") == f"{ROOT}dnf install libaio-devel"


def test_the_toolkit_is_judged_by_torchs_cuda(programs, monkeypatch):
    """Protects: on a GPU the toolkit has to fit torch; the line names the version that does."""
    programs()
    torch = {"cuda": "12.6"}
    fits = built_lines("cuda", torch=torch, toolkit={"version": "12.6"})
    odd = built_lines("cuda", torch=torch, toolkit={"version": "11.4", "mismatch": "..."})
    monkeypatch.setenv("LMOD_CMD", "lmod")
    none = built_lines("cuda", torch=torch, toolkit={"missing": "CUDA_HOME does not exist"})

    assert fits["toolkit"] == Line("ok", "toolkit", "CUDA 12.6, torch is built for 12.6")
    assert odd["toolkit"] == Line(
        "--",
        "toolkit",
        "CUDA 11.4, and torch is built for 12.6: DeepSpeed refuses",
        f"the toolkit 12.6: {ROOT}apt-get install nvidia-cuda-toolkit",
    )
    assert none["toolkit"] == Line(
        "--", "toolkit", "no CUDA 12.6: CUDA_HOME does not exist", "module load cuda/12.6"
    )
    assert "toolkit" not in built_lines("cpu")


def test_ops_that_are_not_built(programs, empty_cache):
    """Protects: the ops are those of this installation, and the command that builds them."""
    programs()
    build = f"{sys.executable} -m pytest_deepspeed.processes.ops"

    assert built_lines()["ops"] == Line(
        "--",
        "ops",
        "built: none; not built, which the first test that needs it does: fused_adam, cpu_adam,"
        " async_io, deepspeed_shm_comm",
        f"{build} build fused_adam cpu_adam async_io deepspeed_shm_comm",
    )
    assert built_lines("cuda")["ops"].remedy == (
        f"{build} --accelerator cuda build fused_adam cpu_adam async_io"
    )


def test_libaio_without_a_compiler(programs, empty_cache):
    """Protects: what a build of async_io lacks is named as the tests that skip name it."""
    if building.machine.no_async_io("cpu") is None:
        pytest.fail("without a compiler async_io cannot be built")
    programs()

    assert built_lines()["libaio"] == Line(
        "--",
        "libaio",
        "building DeepSpeed's op async_io needs a C++ compiler",
        f"{ROOT}apt-get install g++",
    )
