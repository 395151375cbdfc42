# ruff: noqa: E501 (messages are compared as they are shown)
"""What takes a node, a step or the whole job away ends a test with the node's name, and in order."""

import importlib.util
import re

import cluster
import in_a_job
from inner import text

_TEST = """
import time
from pathlib import Path

import pytest
import torch.distributed as dist


def _wait_for(file):
    while not Path(file).exists():
        time.sleep(0.02)


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_1(rank):
    dist.barrier()
    Path(f"first_{rank}").touch()
    _wait_for("go_on")


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_2(rank):
    dist.barrier()
    Path(f"second_{rank}").touch()
    _wait_for("never")


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_3(rank):
    dist.barrier()


def test_4():
    pass
"""

_ENDING = "pytest was told to end (SIGTERM; Slurm sends it to job N for scancel, preemption and its time limit)"
# The second where slurmctld has not taken the node for lost yet.
_GONE = (
    r"the node is down, o(r not in the job any more|\.\.\.)|slurmd does not ans(wer there|\.\.\.)"
)
_REPEAT = "env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu srun --nodes=2 --ntasks-per-node=1 --overlap torchrun --nnodes=2 --nproc_per_node=1 --rdzv_backend=c10d --rdzv_id=ID --rdzv_endpoint=n1:29400 -m pytest_deepspeed"


def test_a_node_that_is_lost(own_slurm, tmp_path):
    """The test that runs fails with the node's name, the next one says that it cannot be had again,
    and all reports are written.
    """
    args = []
    if importlib.util.find_spec("pytest_html"):
        args = ["--html=report.html", "--self-contained-html"]
    session = in_a_job.submit(own_slurm, tmp_path, _TEST, *args)
    session.wait_for("first_0", "first_1")
    own_slurm.kill_node("n2")
    assert session.wait() == cluster.Job("FAILED", status=2, signal=0), session.output
    assert re.sub(_GONE, "WHY", session.report) == text(
        f"""
        ==================================== ERRORS ====================================
        ___________________________ ERROR at setup of test_2 ___________________________
        node n2 cannot be used: WHY.
        Its last output:
        =================================== FAILURES ===================================
        ____________________________________ test_1 ____________________________________
        E   rank 1 on n2 was lost in call: node n2 was lost: the connection to its agent has ended.
        ------------------------------------ ranks -------------------------------------
        rank 0 on n1: aborted in call: killed 1 s after the first failure
        rank 1 on n2: was lost with its node in call

        repeat it outside pytest:
        {_REPEAT} test_1.py::test_1 --ds-seed=0
        ========================== 2 of 4 tests were not run ===========================
        node n2 cannot be used: WHY.
        NOT RUN test_1.py::test_3
        NOT RUN test_1.py::test_4
        generated xml file: DIR/junit.xml
        =========================== short test summary info ============================
        FAILED test_1.py::test_1 - rank 1 on n2 was lost in call: node n2 was lost: t...
        ERROR test_1.py::test_2 - Failed: node n2 cannot be used: WHY
        Interrupted: node n2 cannot be used: WHY.
        1 failed, 1 error in N s
        """
    )
    assert {name: re.sub(_GONE, "WHY", told) for name, told in session.junit.items()} == {
        "test_1": "failure: rank 1 on n2 was lost in call: node n2 was lost: the connection to its agent has ended.",
        "test_2": 'error: failed on setup with "Failed: node n2 cannot be used: WHY.',
    }
    if args:
        page = tmp_path.joinpath("report.html").read_text()
        assert page.rstrip().endswith("</html>")
        assert "rank 1 on n2 was lost in call" in page
        assert "node n2 cannot be used" in page


def test_a_slurmd_that_is_lost(own_slurm, tmp_path):
    """Tests run on without it until Slurm takes the node for lost, which then is said."""
    session = in_a_job.submit(own_slurm, tmp_path, _TEST)
    session.wait_for("first_0", "first_1")
    own_slurm.kill_slurmd("n2")
    tmp_path.joinpath("go_on").touch()
    assert session.wait() == cluster.Job("FAILED", status=2, signal=0), session.output
    assert session.report == text(
        f"""
        ==================================== ERRORS ====================================
        ___________________________ ERROR at setup of test_3 ___________________________
        node n2 cannot be used: the node is down, or not in the job any more.
        Its last output:
        =================================== FAILURES ===================================
        ____________________________________ test_2 ____________________________________
        E   rank 1 on n2 was lost in call: node n2 was lost: Slurm reports a node failure.
        ------------------------------------- node -------------------------------------
        Its last output:
        ------------------------------------ ranks -------------------------------------
        rank 0 on n1: aborted in call: killed 1 s after the first failure
        rank 1 on n2: was lost with its node in call

        repeat it outside pytest:
        {_REPEAT} test_1.py::test_2 --ds-seed=0
        ========================== 1 of 4 tests were not run ===========================
        node n2 cannot be used: the node is down, or not in the job any more.
        NOT RUN test_1.py::test_4
        generated xml file: DIR/junit.xml
        =========================== short test summary info ============================
        FAILED test_1.py::test_2 - rank 1 on n2 was lost in call: node n2 was lost: S...
        ERROR test_1.py::test_3 - Failed: node n2 cannot be used: the node is down, o...
        Interrupted: node n2 cannot be used: the node is down, or not in the job any more.
        1 failed, 1 passed, 1 error in N s
        """
    )
    assert session.junit == {
        "test_1": "",
        "test_2": "failure: rank 1 on n2 was lost in call: node n2 was lost: Slurm reports a node failure.",
        "test_3": 'error: failed on setup with "Failed: node n2 cannot be used: the node is down, or not in the job any more.',
    }


def _step_on(slurm, node):
    steps = slurm.run("squeue", "--steps", "--noheader", "--format=%i %N %j").stdout.splitlines()
    (step,) = [x.split()[0] for x in steps if x.split()[1:] == [node, "python"]]
    return step


def test_a_step_and_a_job_that_are_cancelled(slurm, tmp_path):
    """A test whose step is cancelled fails and the next has a new one; scancel of the job ends the
    session, with its reports.
    """
    session = in_a_job.submit(slurm, tmp_path, _TEST)
    session.wait_for("first_0", "first_1")
    slurm.run("scancel", _step_on(slurm, "n2"))
    session.wait_for("second_0", "second_1")
    slurm.run("scancel", session.job)
    assert session.wait().state == "CANCELLED"
    assert session.report == text(
        f"""
        ==================================== ERRORS ====================================
        ___________________________ ERROR at setup of test_2 ___________________________
        {_ENDING} while this test ran on n1, n2
        =================================== FAILURES ===================================
        ____________________________________ test_1 ____________________________________
        E   rank 1 on n2 was lost in call: node n2 was lost: its step, or the job, was cancelled.
        ------------------------------------- node -------------------------------------
        Its last output:
        ------------------------------------ ranks -------------------------------------
        rank 0 on n1: aborted in call: killed 1 s after the first failure
        rank 1 on n2: was lost with its node in call

        repeat it outside pytest:
        {_REPEAT} test_1.py::test_1 --ds-seed=0
        ========================== 2 of 4 tests were not run ===========================
        {_ENDING}
        NOT RUN test_1.py::test_3
        NOT RUN test_1.py::test_4
        generated xml file: DIR/junit.xml
        =========================== short test summary info ============================
        FAILED test_1.py::test_1 - rank 1 on n2 was lost in call: node n2 was lost: i...
        ERROR test_1.py::test_2 - Failed: pytest was told to end (SIGTERM; Slurm send...
        Interrupted: {_ENDING}
        1 failed, 1 error in N s
        """
    )
    assert session.junit == {
        "test_1": "failure: rank 1 on n2 was lost in call: node n2 was lost: its step, or the job, was cancelled.",
        "test_2": f'error: failed on setup with "Failed: {_ENDING} while this test ran on n1, n2"',
    }


def test_a_job_that_is_put_back_while_its_nodes_start(slurm, tmp_path):
    """As preemption does: the test that waits for its nodes fails, and its reports are written."""
    options = [option for option in in_a_job.OPTIONS if option != "--no-requeue"]
    session = in_a_job.submit(slurm, tmp_path, _TEST, "-v", options=[*options, "--requeue"])
    session.wait_until(lambda: "test_1.py::test_1" in session.output, "test that began")
    slurm.run("scontrol", "requeuehold", session.job)
    session.wait_gone()
    assert session.report == text(
        f"""
        ==================================== ERRORS ====================================
        ___________________________ ERROR at setup of test_1 ___________________________
        {_ENDING} while this test ran on n1, n2
        ========================== 3 of 4 tests were not run ===========================
        {_ENDING}
        NOT RUN test_1.py::test_2
        NOT RUN test_1.py::test_3
        NOT RUN test_1.py::test_4
        generated xml file: DIR/junit.xml
        =========================== short test summary info ============================
        ERROR test_1.py::test_1 - Failed: pytest was told to end (SIGTERM; Slurm send...
        Interrupted: {_ENDING}
        1 error in N s
        """
    )
    assert session.junit == {
        "test_1": f'error: failed on setup with "Failed: {_ENDING} while this test ran on n1, n2"'
    }
