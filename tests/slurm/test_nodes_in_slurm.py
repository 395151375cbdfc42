# ruff: noqa: E501 (messages are compared as they are shown)
"""Tests over two nodes of a job are reported as on one, with the names of the nodes."""

import cluster
import in_a_job
from inner import text

_TEST = """
import os
import signal
import time
from pathlib import Path

import pytest
import torch.distributed as dist

STEP = ("SLURM_STEP", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_TASK")


@pytest.mark.multinode
@pytest.mark.world_size(3)
def test_places(rank, local_rank, node_rank):
    seen = [None, None, None]
    names = ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "SLURMD_NODENAME", "SLURM_JOB_NUM_NODES")
    own = [rank, local_rank, node_rank, *(os.environ[name] for name in names)]
    dist.all_gather_object(seen, own)
    assert seen == [
        [0, 0, 0, "2", "2", "n1", "2"],
        [1, 1, 0, "2", "2", "n1", "2"],
        [2, 0, 1, "1", "2", "n2", "2"],
    ]
    assert [name for name in os.environ if name.startswith((*STEP, "SRUN_", "PMI"))] == []


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_fails(rank):
    if rank == 1:
        print("hello from n2")
        assert rank == 0
    time.sleep(1000)


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_dies(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(1000)


@pytest.mark.multinode
@pytest.mark.ds_timeout(3)
@pytest.mark.world_size(2)
def test_hangs(rank):
    if rank == 1:
        time.sleep(1000)
    dist.barrier()


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_skips(rank):
    dist.barrier()
    pytest.skip(f"rank {rank}")


@pytest.mark.multinode(3)
@pytest.mark.world_size(2)
def test_of_three_nodes(rank):
    pass


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_longer_than_the_job(rank):
    dist.barrier()
    Path(f"begun_{rank}").touch()
    time.sleep(1000)


def test_after_it():
    pass
"""


_ENDING = "pytest was told to end (SIGTERM; Slurm sends it to job N for scancel, preemption and its time limit)"
_REPEAT = "env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu srun --nodes=2 --ntasks-per-node=1 --overlap torchrun --nnodes=2 --nproc_per_node=1 --rdzv_backend=c10d --rdzv_id=ID --rdzv_endpoint=n1:29400 -m pytest_deepspeed"


def test_a_job_of_two_nodes(slurm, tmp_path):
    """Each rank is where it should be and knows no step; what befalls one on the second node is
    told with its name; the signal of `--signal=B:TERM` ends the session with all its reports.
    """
    session = in_a_job.submit(slurm, tmp_path, _TEST)
    session.wait_for("begun_0", "begun_1")
    # What Slurm itself does then; it looks at the time every 30 s.
    slurm.run("scancel", "--batch", "--signal=TERM", session.job)
    assert session.wait() == cluster.Job("FAILED", status=2, signal=0), session.output
    header = session.output.splitlines()
    assert header[2:4] == ["deepspeed: nodes=2", "nodes: n1, n2 (of Slurm job N)"]
    assert session.report == text(
        f"""
        ==================================== ERRORS ====================================
        __________________ ERROR at setup of test_longer_than_the_job __________________
        {_ENDING} while this test ran on n1, n2
        =================================== FAILURES ===================================
        __________________________________ test_fails __________________________________

        rank = 1

            @pytest.mark.multinode
            @pytest.mark.world_size(2)
            def test_fails(rank):
                if rank == 1:
                    print("hello from n2")
        >           assert rank == 0
        E           assert 1 == 0

        test_places.py:32: AssertionError
        ------------------------------------ ranks -------------------------------------
        rank 0 on n1: aborted in call: killed 1 s after the first failure
        rank 1 on n2: failed first, in call

        repeat it outside pytest:
        {_REPEAT} test_places.py::test_fails --ds-seed=0
        ------------------------ Captured stdout [rank 1 on n2] ------------------------
        hello from n2
        __________________________________ test_dies ___________________________________
        E   rank 1 on n2 was killed by SIGSEGV in call
        ----------------------- rank 1 on n2: no collective yet ------------------------
        Fatal Python error: Segmentation fault
        Current thread 0xN (most recent call first):
          DIR/test_places.py:40 in test_dies
            os.kill(os.getpid(), signal.SIGSEGV)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0 on n1: aborted in call: killed 1 s after the first failure
        rank 1 on n2: was killed by SIGSEGV in call

        repeat it outside pytest:
        {_REPEAT} test_places.py::test_dies --ds-seed=0
        __________________________________ test_hangs __________________________________
        E   hang: 2 ranks of 2 (0 on n1, 1 on n2) had not ended the body after 3 s (--ds-timeout allows more)
        ---------- rank 0 on n1: last collective barrier, number 1 of group 0 ----------
        Current thread 0xN (most recent call first):
          torch/distributed/distributed_c10d.py:N in barrier
            work.wait()
          torch/distributed/c10d_logger.py:N in wrapper
            return func(*args, **kwargs)
          DIR/test_places.py:50 in test_hangs
            dist.barrier()
          (N frames of pytest and pytest-deepspeed)
        ----------------------- rank 1 on n2: no collective yet ------------------------
        Current thread 0xN (most recent call first):
          DIR/test_places.py:49 in test_hangs
            time.sleep(1000)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0 on n1: was still in call
        rank 1 on n2: was still in call
        first divergence: group 0, collective 1: rank 0 is in barrier; rank 1 never came

        repeat it outside pytest:
        {_REPEAT} test_places.py::test_hangs --ds-seed=0
        ========================== 1 of 8 tests were not run ===========================
        {_ENDING}
        NOT RUN test_places.py::test_after_it
        generated xml file: DIR/junit.xml
        =========================== short test summary info ============================
        FAILED test_places.py::test_fails - rank 1 on n2: assert 1 == 0
        FAILED test_places.py::test_dies - rank 1 on n2 was killed by SIGSEGV in call
        FAILED test_places.py::test_hangs - hang: 2 ranks of 2 (0 on n1, 1 on n2) had...
        ERROR test_places.py::test_longer_than_the_job - Failed: pytest was told to e...
        SKIPPED [1] test_places.py:57: rank 0
        SKIPPED [1] test_places.py:60: needs 3 nodes and has 2: pytest --ds-nodes=3 in a Slurm job, or with --ds-launcher=local to emulate them
        Interrupted: {_ENDING}
        3 failed, 1 passed, 2 skipped, 1 error in N s
        """
    )
    assert session.junit == {
        "test_places": "",
        "test_fails": "failure: rank 1 on n2: assert 1 == 0",
        "test_dies": "failure: rank 1 on n2 was killed by SIGSEGV in call",
        "test_hangs": "failure: hang: 2 ranks of 2 (0 on n1, 1 on n2) had not ended the body after 3 s (--ds-timeout allows more)",
        "test_skips": "skipped: rank 0",
        "test_of_three_nodes": "skipped: needs 3 nodes and has 2: pytest --ds-nodes=3 in a Slurm job, or with --ds-launcher=local to emulate them",
        "test_longer_than_the_job": f'error: failed on setup with "Failed: {_ENDING} while this test ran on n1, n2"',
    }
