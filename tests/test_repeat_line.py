"""The last line of a failure repeats it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import inner

FAILS = """
    import os
    import pytest
    import torch
    import torch.distributed as dist

    @pytest.fixture
    def offset():
        return 10

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("name", ["a b", "c"])
    def test_sums(rank, offset, name):
        total = torch.ones(1) * rank + offset
        dist.all_reduce(total)
        assert total.item() == 3, os.environ["WORLD_SIZE"]
"""


def torchrun(line, folder):
    """Types the line in ``folder``, with this environment's torchrun on PATH."""
    path = f"{Path(sys.executable).parent}:{inner.environment()['PATH']}"
    return subprocess.run(
        shlex.split(line),
        cwd=folder,
        env=inner.environment(PATH=path),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_line_repeats_the_failure(inner_session, tmp_path):
    """Protects: the printed torchrun command fails with the same assertion, fixtures included."""
    session = inner_session(FAILS, args=["--ds-seed=7", "-k", "b"])
    (line,) = re.findall(r"^env OMP_NUM_THREADS=1 .*$", session.output, re.MULTILINE)

    assert line == (
        "env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2"
        " -m pytest_deepspeed 'test_sums.py::test_sums[a b]' --ds-seed=7"
    )

    done = torchrun(line, tmp_path)

    assert done.returncode == 1
    assert "assert 21.0 == 3" in done.stdout
    assert "AssertionError: 2" in done.stdout


CALLS = """
    import torch
    import torch.distributed as dist

    def sums(rank, start):
        total = torch.ones(1) * rank + start
        dist.all_reduce(total)
        assert total.item() == 3, "sum"

    def test_calls(ds_run):
        ds_run(sums, world_size=2, start=[10][0])
"""


def test_the_line_repeats_a_call(inner_session, tmp_path):
    """Protects: a failed ``ds_run`` is repeated with its function and arguments."""
    # Elsewhere the kept arguments go with the oldest of pytest's three temporary directories.
    session = inner_session(CALLS, args=["--basetemp=kept"])
    output = tmp_path.joinpath("output").read_text()
    (line,) = re.findall(r"^E +(env OMP_NUM_THREADS=1 .*)$", output, re.MULTILINE)

    assert session.status == 1
    assert re.fullmatch(
        r"env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2"
        r" -m pytest_deepspeed --call \S+/call\.json",
        line,
    )

    done = torchrun(line, tmp_path)

    assert done.returncode == 1
    assert "AssertionError: sum" in done.stderr


def test_without_torchrun_it_says_how(tmp_path):
    """Protects: ``python -m pytest_deepspeed`` by itself explains itself."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_deepspeed", "test_x.py"],
        cwd=tmp_path,
        env=inner.environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr == (
        "usage: torchrun --standalone --nproc_per_node=N -m pytest_deepspeed TEST [OPTION]...\n"
        "       torchrun --standalone --nproc_per_node=N -m pytest_deepspeed --call FILE\n"
        "Runs TEST (such as tests/test_a.py::test_b) with each process as one rank, or the call\n"
        "that a failed ds_run has kept in FILE.\n"
    )
