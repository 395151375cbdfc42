# ruff: noqa: E501 (messages are compared as they are shown)
"""Nodes that share no address: the ranks meet all the same, and pytest on the login node hears all."""

import contextlib
import re
import time

import in_a_job
import pytest
from inner import text

_TEST = """
import os

import pytest
import torch
import torch.distributed as dist

NAMES = ("MASTER_ADDR", "GLOO_SOCKET_IFNAME", "SLURMD_NODENAME")


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_a_sum(rank):
    sum_of_ranks = torch.tensor([rank])
    dist.all_reduce(sum_of_ranks)
    assert sum_of_ranks.item() == 1
    seen = [None, None]
    dist.all_gather_object(seen, [os.environ.get(name) for name in NAMES])
    assert seen == [["10.0.0.1", "eth0", "n1"], ["10.0.0.1", "eth0", "n2"]]


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_a_failure(rank):
    assert rank == 0
"""

# Python on n2 starts once the way from there to the controller is barred.
_WAIT = """
import os, time
while os.environ.get("SLURMD_NODENAME") == "n2" and not os.path.exists("barred"):
    time.sleep(0.02)
"""


def _port(cluster):
    """Where the pytest on the login node listens for its agents."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        listening = cluster.run("ss", "-Hltnp").stdout.splitlines()
        # salloc hands down what it listens on, and other plugins listen on the loopback.
        own = [x for x in listening if "python" in x and "salloc" not in x and "127.0.0.1" not in x]
        ports = [re.search(r":(\d+) ", line)[1] for line in own]
        if ports:
            return ports[0]
        time.sleep(0.1)
    raise AssertionError(listening)


@contextlib.contextmanager
def _barred(cluster, port):
    """No way from n2 to a port of the login node."""
    rule = ("to", "10.0.0.254", "ipproto", "tcp", "dport", port, "unreachable")
    cluster.run("srun", "--nodelist=n2", "ip", "rule", "add", *rule)
    try:
        yield
    finally:
        cluster.run("srun", "--nodelist=n2", "ip", "rule", "del", *rule)


@pytest.fixture
def n1_on_debian(isolated_slurm):
    """n1 takes its own name for 127.0.1.1, as Debian's installer leaves a machine."""
    isolated_slurm.set_hosts("n1", n1="127.0.1.1")
    yield
    isolated_slurm.set_hosts("n1")


@pytest.mark.usefixtures("n1_on_debian")
def test_the_login_node_runs_tests_on_nodes_with_networks_of_their_own(isolated_slurm, tmp_path):
    """Ranks meet at an address of n1 that n2 can reach, and an agent that cannot reach the
    controller is served through srun.
    """
    slurm = isolated_slurm
    tmp_path.joinpath("sitecustomize.py").write_text(_WAIT)
    salloc = in_a_job.from_login_node(slurm, tmp_path, _TEST, PYTHONPATH=tmp_path)
    with _barred(slurm, _port(slurm)):
        tmp_path.joinpath("barred").touch()
        status = salloc.wait(300)
    session = in_a_job.JobSession(tmp_path, slurm)
    assert "the agent on n1 cannot" not in session.output
    assert (
        "the agent on n2 cannot connect to this process (tried 10.0.0.254 (Network is"
        " unreachable)): its messages go through srun, which takes 0.04 s for each long one\n"
    ) in re.sub(r"\[Errno \d+\] ", "", session.output)
    assert session.report == text(
        """
        =================================== FAILURES ===================================
        ________________________________ test_a_failure ________________________________

        rank = 1

            @pytest.mark.multinode
            @pytest.mark.world_size(2)
            def test_a_failure(rank):
        >       assert rank == 0
        E       assert 1 == 0

        test_a_sum.py:24: AssertionError
        ------------------------------------ ranks -------------------------------------
        rank 0 on n1: passed
        rank 1 on n2: failed first, in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu srun --nodes=2 --ntasks-per-node=1 --overlap torchrun --nnodes=2 --nproc_per_node=1 --rdzv_backend=c10d --rdzv_id=ID --rdzv_endpoint=n1:29400 -m pytest_deepspeed test_a_sum.py::test_a_failure --ds-seed=0
        generated xml file: DIR/junit.xml
        =========================== short test summary info ============================
        FAILED test_a_sum.py::test_a_failure - rank 1 on n2: assert 1 == 0
        1 failed, 1 passed in N s
        """
    )
    assert session.junit == {
        "test_a_sum": "",
        "test_a_failure": "failure: rank 1 on n2: assert 1 == 0",
    }
    assert status == 1
    session.wait_gone()
