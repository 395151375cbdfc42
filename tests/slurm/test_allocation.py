"""`processes.slurm`: what the job has, and what is said where that does not do."""

import os
import stat
from pathlib import Path

import pytest

from pytest_deepspeed.processes import slurm
from pytest_deepspeed.values.errors import LaunchError

#: A folder without commands, for a machine without Slurm.
NOTHING = "/nonexistent"
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-2,08]",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2),2",
}

DETAILS = """\
JobId=17 JobName=sbatch
   NumNodes=3 NumCPUs=10 NumTasks=3 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   JOB_GRES=gpu:5
     Nodes=n[1-2] CPU_IDs=0-3 Mem=8000 GRES=gpu:a100:1(IDX:0),gpu:v100:1(IDX:1),shard:9(IDX:0)
     Nodes=n08 CPU_IDs=0-1 Mem=8000 GRES=gpu:3(IDX:0,2-3)
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
"""


@pytest.fixture
def without_slurm(monkeypatch):
    """No command is found."""
    monkeypatch.setenv("PATH", NOTHING)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Makes a command from a shell script, on a PATH of such commands alone."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return tmp_path

    return make


@pytest.fixture
def srun(commands):
    """PATH has an srun."""
    return commands("srun", "exit 1")


def test_outside_of_a_job():
    """Protects: a laptop, and a login node, are no allocation."""
    assert slurm.current({"SLURM_CONF": "/etc/slurm/slurm.conf"}) is None


def test_nodes_and_cpus(without_slurm):
    """Protects: names, order and CPUs of the nodes, without scontrol."""
    assert slurm.current(JOB) == slurm.Allocation("17", ("n1", "n2", "n08"), (4, 4, 2), (0, 0, 0))


def test_scontrol_reads_the_list(commands):
    """Protects: where scontrol is there, the node names are Slurm's own reading."""
    commands("scontrol", '[ "$*" = "show hostnames n[1-2,08]" ] && printf "x\\ny\\nz\\n"')
    assert slurm.current(JOB).nodes == ("x", "y", "z")


def test_gpus_are_those_that_slurm_gave(commands):
    """Protects: devices per node, of all types, where the nodes differ."""
    commands("scontrol", f"[ $1 = --details ] && /bin/cat <<'EOF'\n{DETAILS}EOF")
    assert slurm.current(JOB).gpus == (2, 2, 3)


@pytest.mark.parametrize("counts", [None, "4(x2)", "nonsense"])
def test_unknown_cpus(without_slurm, counts):
    """Protects: CPUs that cannot be told are unknown, and not those of another node."""
    environ = {**JOB, "SLURM_JOB_CPUS_PER_NODE": counts} if counts else dict(list(JOB.items())[:2])
    assert slurm.current(environ).cpus == (0, 0, 0)


@pytest.mark.parametrize(
    ("listed", "shown"),
    [(None, "from character 0 on: ''"), ("n[1-", "from character 1 on: 'n[1-'")],
)
def test_a_job_without_readable_nodes(without_slurm, listed, shown):
    """Protects: a job id that was left in the environment is named as the cause."""
    environ = {"SLURM_JOB_ID": "17"} | ({"SLURM_JOB_NODELIST": listed} if listed else {})
    with pytest.raises(LaunchError) as raised:
        slurm.current(environ)
    assert str(raised.value) == (
        "SLURM_JOB_ID=17 is set, and SLURM_JOB_NODELIST is not a list as Slurm prints it,"
        f" {shown}. Start pytest in the shell of the job itself, or unset SLURM_JOB_ID if this is"
        " none."
    )


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_the_first_nodes_are_taken(srun, asked):
    """Protects: a job may have more nodes than a session uses."""
    allocation = slurm.granted(asked, (), {**JOB, "PATH": str(srun)})
    assert allocation.nodes == ("n1", "n2", "n08")[:asked]
    assert allocation.cpus == (4, 4, 2)[:asked]
    assert len(allocation.gpus) == asked


def test_outside_of_a_job_the_lines_are_shown(srun, monkeypatch):
    """Protects: the message has the lines to type, with the user's own arguments quoted."""
    monkeypatch.chdir(Path(slurm.__file__).parents[2])
    with pytest.raises(LaunchError) as raised:
        slurm.granted(2, ["--ds-nodes=2", "-m", "zero2 or zero3", srun], {"PATH": str(srun)})
    typed = f"--ds-nodes=2 -m 'zero2 or zero3' {srun}"
    assert str(raised.value) == (
        "--ds-nodes=2 needs a Slurm job, and this is none (SLURM_JOB_ID is not set). Submit one:\n"
        f"    sbatch --nodes=2 slurm/pytest.sbatch {typed}\n"
        "or run in an interactive one:\n"
        "    salloc --nodes=2 --ntasks-per-node=1 --cpus-per-task=4 --time=00:30:00"
        f" bash slurm/pytest.sbatch {typed}\n"
        "With --ds-launcher=local the nodes are emulated on this machine."
    )


def test_more_nodes_than_granted(srun, monkeypatch):
    """Protects: the message says which nodes there are, and how to get more.

    The option is added to the line where it came from the ini file.
    """
    monkeypatch.chdir(Path(slurm.__file__).parents[2])
    with pytest.raises(LaunchError) as raised:
        slurm.granted(4, ["-m", "zero3"], {**JOB, "PATH": str(srun)})
    assert str(raised.value) == (
        "--ds-nodes=4 asks for more nodes than job 17 has: 3 (n[1-2,08]). Use --ds-nodes=3, or"
        " submit a larger job:\n    sbatch --nodes=4 slurm/pytest.sbatch --ds-nodes=4 -m zero3"
    )


def test_no_srun(without_slurm):
    """Protects: a container without Slurm's commands is told what it lacks."""
    with pytest.raises(LaunchError) as raised:
        slurm.granted(2, ["--ds-nodes=2"], {**JOB, "PATH": os.environ["PATH"]})
    assert str(raised.value) == (
        "--ds-nodes=2 starts an agent on each node of job 17 with srun, and srun is not on PATH."
        " Add the folder of Slurm's commands to PATH (`type srun` in a login shell shows it); in a"
        " container they have to be bound into it."
    )
