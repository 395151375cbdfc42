"""Faults of a Slurm job: pytest runs over two nodes of a cluster that is there for one try."""

import dataclasses
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# The test cluster and what runs pytest in it.
sys.path.append(str(Path(__file__).parents[2] / "slurm"))

import cluster as test_cluster
import in_a_job
from campaign_judge import Try
from marked import wait_for

#: Seconds from a strike to the job's end; Slurm takes ten to see that a node is lost.
_PATIENCE = 120.0

_TESTS = 12
_SOURCE = f"""
import time
from pathlib import Path

import pytest
import torch.distributed as dist


@pytest.mark.multinode
@pytest.mark.world_size(2)
@pytest.mark.parametrize("number", range({_TESTS}))
def test_case(rank, number):
    Path(f"began_{{number}}_{{rank}}").touch()
    for _ in range(10):
        time.sleep(0.03)
        dist.barrier()
"""

_LOST = r"node n2 (was lost|cannot be used)|rank 1 on n2 was lost"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One of them; right verdicts were written down before the first run.

    Attributes:
        name, what, every: as in `campaign_catalogue`.
        strike: what happens, to the cluster and the session.
        state: of the job at its end.
        harmed: how many tests may fail or be errors for it.
        says: a pattern that each of them must hold.
        ends: whether tests that come later need not run.
    """

    name: str
    what: str
    strike: Callable[..., None]
    state: str = "COMPLETED"
    harmed: Sequence[int] = (0,)
    says: str = ""
    ends: bool = False
    every: int = 4


def _node_lost(cluster, session):
    cluster.kill_node("n2")


def _controller_restarted(cluster, session):
    cluster.restart_controller()


def _step_cancelled(cluster, session):
    steps = cluster.run("squeue", "--steps", "--noheader", "--format=%i %N %j").stdout.splitlines()
    (step,) = [x.split()[0] for x in steps if x.split()[1:] == ["n2", "python"]]
    cluster.run("scancel", step)


def _job_cancelled(cluster, session):
    cluster.run("scancel", session.job)


FAULTS = (
    Fault("node_lost", "Slurm: node lost", _node_lost, "FAILED", (1, 2), _LOST, ends=True),
    Fault("controller_restarted", "Slurm: slurmctld killed and restarted", _controller_restarted),
    Fault("step_cancelled", "Slurm: step cancelled", _step_cancelled, "FAILED", (1,), _LOST),
    Fault(
        "job_cancelled",
        "Slurm: job cancelled",
        _job_cancelled,
        "CANCELLED",
        (0, 1),
        r"pytest was told to end \(SIGTERM; Slurm sends it",
        ends=True,
    ),
)


def run(fault, seed, folder):
    """Makes it happen once.

    Returns:
        the `Try`; ``None`` where Slurm is not installed.
    """
    if test_cluster.missing():
        return None
    choice = random.Random(f"{fault.name} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    conf = test_cluster.QUICK_TO_SEE_A_LOSS
    with test_cluster.Cluster(folder / "slurm", conf=conf) as made:
        work = folder / "job"
        work.mkdir()
        session = in_a_job.submit(made, work, _SOURCE)
        session.wait_for("began_0_0", "began_0_1")
        time.sleep(choice.uniform(0, 3))
        began = time.monotonic()
        fault.strike(made, session)
        wrong, seconds = [], _PATIENCE
        try:
            state = made.wait(session.job, _PATIENCE).state
            seconds = time.monotonic() - began
            wrong += [f"the job is {state}: {session.output}"] if state != fault.state else []
        except RuntimeError as error:
            wrong.append(str(error))
        wait_for(lambda: not made.processes(), 30)
        left = made.processes()
        wrong += _verdicts(fault, session)
    return Try(fault.name, seed, "", seconds, tuple(wrong), tuple(left))


def _verdicts(fault, session):
    try:
        told = session.junit
    except (OSError, SyntaxError) as error:
        return [f"junit.xml: {error}"]
    harmed = {name: text for name, text in told.items() if text}
    wrong = [f"{name}: {text}" for name, text in harmed.items() if not re.search(fault.says, text)]
    if len(harmed) not in fault.harmed:
        wrong.append(f"{len(harmed)} tests are harmed, not {fault.harmed}: {session.output}")
    if not fault.ends and len(told) != _TESTS:
        wrong.append(f"{len(told)} tests of {_TESTS} in the report: {session.output}")
    return wrong
