"""The step of an agent: its command line and its environment."""

import json
import os
import shlex
import signal
import subprocess
import sys

import fake_srun
import pytest

from pytest_deepspeed.processes import slurm

ALLOCATION = slurm.Allocation("17", ("n1", "n2"), (4, 0), (2, 0))


def _names(text):
    return text.split()


#: Of a batch script of Slurm 22.05.8: ``sbatch -N2 --ntasks-per-node=2 --cpus-per-task=2
#: --mem-per-cpu=100 --gpus-per-node=2 --export=NONE``; with what a site and a user may have added.
BATCH = _names("""
SLURMD_NODENAME SLURM_CLUSTER_NAME SLURM_CONF SLURM_CPUS_ON_NODE SLURM_GET_USER_ENV
SLURM_GPUS_ON_NODE SLURM_JOBID SLURM_JOB_CPUS_PER_NODE SLURM_JOB_GID SLURM_JOB_ID SLURM_JOB_NAME
SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES SLURM_JOB_PARTITION SLURM_JOB_UID SLURM_JOB_USER
SLURM_NODELIST SLURM_NODE_ALIASES SLURM_SUBMIT_DIR SLURM_SUBMIT_HOST SLURM_TOPOLOGY_ADDR
SLURM_TOPOLOGY_ADDR_PATTERN SLURM_WORKING_CLUSTER
SLURM_ARRAY_TASK_ID SLURM_RESTART_COUNT SLURM_TMPDIR SLURM_JWT SRC PMIC PATH
""")
BATCH_TASKS = _names("""
SLURM_CPUS_PER_TASK SLURM_EXPORT_ENV SLURM_GPUS_PER_NODE SLURM_GTIDS SLURM_JOB_GPUS SLURM_LOCALID
SLURM_MEM_PER_CPU SLURM_NNODES SLURM_NODEID SLURM_NPROCS SLURM_NTASKS SLURM_NTASKS_PER_NODE
SLURM_PRIO_PROCESS SLURM_PROCID SLURM_TASKS_PER_NODE SLURM_TASK_PID
""")
#: Of srun(1): what else it reads, as variables of a user who wants it so for every srun.
USERS = _names("""
SLURM_CPU_BIND SLURM_CPUS_PER_GPU SLURM_DEBUG SLURM_DISTRIBUTION SLURM_EXACT SLURM_EXCLUSIVE
SLURM_EXIT_ERROR SLURM_GPUS SLURM_GPUS_PER_TASK SLURM_GPU_BIND SLURM_GRES SLURM_HINT
SLURM_IMMEDIATE SLURM_KILL_BAD_EXIT SLURM_LABELIO SLURM_MEM_BIND SLURM_MEM_PER_NODE SLURM_MPI_TYPE
SLURM_NTASKS_PER_CORE SLURM_NTASKS_PER_GPU SLURM_OVERCOMMIT SLURM_REMOTE_CWD SLURM_SIGNAL
SLURM_STDERRMODE SLURM_STDINMODE SLURM_STDOUTMODE SLURM_STEP_GRES SLURM_THREADS_PER_CORE
SLURM_TIMELIMIT SLURM_TRES_PER_TASK SLURM_UMASK SLURM_UNBUFFEREDIO SLURM_WAIT SLURM_WORKING_DIR
SRUN_CPUS_PER_TASK SRUN_EXPORT_ENV PMI_FANOUT
""")
#: Of a task of srun 22.05.8, in the job above and with ``--mpi=pmi2``; the rest is as in `BATCH`.
TASK = _names("""
SLURM_CPUS_PER_TASK SLURM_CPU_BIND SLURM_CPU_BIND_LIST SLURM_CPU_BIND_TYPE SLURM_CPU_BIND_VERBOSE
SLURM_GTIDS SLURM_LAUNCH_NODE_IPADDR SLURM_LOCALID SLURM_NNODES SLURM_NODEID SLURM_NPROCS
SLURM_NTASKS SLURM_PRIO_PROCESS SLURM_PROCID SLURM_SRUN_COMM_HOST SLURM_SRUN_COMM_PORT
SLURM_STEPID SLURM_STEP_GPUS SLURM_STEP_ID SLURM_STEP_LAUNCHER_PORT SLURM_STEP_NODELIST
SLURM_STEP_NUM_NODES SLURM_STEP_NUM_TASKS SLURM_STEP_TASKS_PER_NODE SLURM_TASKS_PER_NODE
SLURM_TASK_PID SLURM_UMASK SRUN_DEBUG PMI_RANK PMI_SIZE PMI_FD PMI_JOBID
""")

#: An agent's beginning: it removes the step's variables, says what is left, and then echoes.
AGENT = """
import json, os, sys
from pytest_deepspeed.processes import slurm
before = {name: os.environ.get(name) for name in ("SLURM_NTASKS", "SLURM_CPUS_ON_NODE")}
slurm.scrub(os.environ)
print(json.dumps([before, dict(os.environ)]), flush=True)
for line in sys.stdin:
    print(line.strip(), flush=True)
"""
#: A batch script's pytest: two agents at once, while another step has all the CPUs.
CONTROLLER = """
import json, os, subprocess, sys
from pytest_deepspeed.processes import slurm
allocation = slurm.granted(2)
environment = slurm.srun_environment(os.environ)
other = subprocess.Popen(
    ["srun", "-N2", "-n2", f"-c{allocation.cpus[0]}", "--unbuffered", "sh", "-c",
     "echo up; exec sleep 60"],
    env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
)
assert [other.stdout.readline() for _ in range(2)] == ["up\\n"] * 2
agents = [
    subprocess.Popen(
        slurm.srun_command(allocation, index, [sys.executable, "-c", sys.argv[1]]),
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    for index in range(2)
]
seen = [json.loads(agent.stdout.readline()) for agent in agents]  # while both are running
said = [agent.communicate(f"hello {index}\\n")[0] for index, agent in enumerate(agents)]
other.terminate()
other.wait()
print(json.dumps([list(allocation.cpus), seen, said, [agent.returncode for agent in agents]]))
"""


def start(environ, index=0, command=(sys.executable, "-c", AGENT)):
    """A step on the fake srun, or on what else is first on PATH."""
    return subprocess.Popen(
        slurm.srun_command(ALLOCATION, index, list(command)),
        env=slurm.srun_environment(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes this process believe to be in a job, with a fake srun; takes its failures."""

    def enter(**failing):
        for name, value in fake_srun.install(tmp_path / "bin", **failing).items():
            monkeypatch.setenv(name, value)
        return os.environ

    return enter


def test_the_whole_command():
    """Protects: every option of the step; a new one is added knowingly."""
    assert slurm.srun_command(ALLOCATION, 0, ["python", "-c", "pass"]) == [
        "srun",
        "--nodes=1",
        "--ntasks=1",
        "--nodelist=n1",
        "--overlap",
        "--cpus-per-task=4",
        "--gpus=2",
        "--mem=0",
        "--cpu-bind=none",
        "--mpi=none",
        "--kill-on-bad-exit=1",
        "--export=ALL",
        "--unbuffered",
        "--",
        "python",
        "-c",
        "pass",
    ]


def test_what_is_unknown_is_not_asked_for():
    """Protects: a node whose CPUs and GPUs are not known gets no made-up number of them."""
    known = slurm.srun_command(ALLOCATION, 0, [])
    unknown = slurm.srun_command(ALLOCATION, 1, [])
    assert set(known) - set(unknown) == {"--nodelist=n1", "--cpus-per-task=4", "--gpus=2"}
    assert set(unknown) - set(known) == {"--nodelist=n2"}


def test_srun_gets_the_job_alone():
    """Protects: no option of the job's own tasks, and none of the user, changes an agent's step."""
    environ = dict.fromkeys(BATCH + BATCH_TASKS + USERS, "x")
    assert set(slurm.srun_environment(environ)) == set(BATCH)
    assert set(environ) == {*BATCH, *BATCH_TASKS, *USERS}


def test_ranks_see_the_job_and_not_the_step():
    """Protects: what Lightning and MPI read of a step is gone, what tells of the job stays."""
    environ = dict.fromkeys(BATCH + TASK, "x")
    slurm.scrub(environ)
    assert set(environ) == set(BATCH)


def test_two_steps_of_the_fake(job):
    """Protects: agents start side by side, with pipes of their own and the node's name."""
    environ = job()
    steps = [start(environ, index) for index in range(2)]
    seen = [json.loads(step.stdout.readline()) for step in steps]
    said = [step.communicate(f"hello {i}\n") for i, step in enumerate(steps)]

    assert said == [("hello 0\n", ""), ("hello 1\n", "")]
    assert [step.returncode for step in steps] == [0, 0]
    assert [before for before, _ in seen] == [
        {"SLURM_NTASKS": "1", "SLURM_CPUS_ON_NODE": cpus} for cpus in ("4", "1")
    ]
    for (_, after), node in zip(seen, ("n1", "n2"), strict=True):
        kept = {name: value for name, value in after.items() if name.startswith(("SLURM", "SRUN"))}
        assert kept.pop("SLURM_CPUS_ON_NODE")
        assert kept == {
            "SLURMD_NODENAME": node,
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
            "SLURM_TOPOLOGY_ADDR": node,
        }


def test_the_fake_refuses_what_srun_has_not(job):
    """Protects: an option that srun does not know cannot pass the tests that use the fake."""
    job()
    done = subprocess.run(
        ["srun", "--overlop", "true"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        255,
        "srun: unrecognized option '--overlop'\nTry \"srun --help\" for more information\n",
    )


@pytest.mark.parametrize(
    ("way", "why"),
    {
        "down": "the node is down, or not in the job any more",
        "expired": "the job has ended",
        "no-python": "/no/such/python does not exist there: all nodes need the same environment,"
        " which slurm/config_env.sh makes on each",
        "cancelled": "its step, or the job, was cancelled",
        "node-failure": "Slurm reports a node failure",
    }.items(),
)
def test_a_step_that_fails(job, way, why):
    """Protects: each way in which the fake fails is one that is explained; the other node runs."""
    environ = job(n2=way)
    good, bad = start(environ, 0, ["true"]), start(environ, 1, ["sleep", "60"])
    words = bad.communicate()[1]
    assert slurm.why_srun_failed(words, bad.returncode) == why
    assert good.communicate()[1] == ""
    assert good.returncode == 0


def test_ending_srun_ends_its_task(job):
    """Protects: SIGTERM to the fake cancels the step, as with srun."""
    step = start(job(), command=["sh", "-c", "echo up; exec sleep 60"])
    assert step.stdout.readline() == "up\n"
    step.send_signal(signal.SIGTERM)
    words = step.communicate()[1]
    assert slurm.why_srun_failed(words, step.returncode) == "its step, or the job, was cancelled"


@pytest.mark.parametrize(
    ("options", "cpus"),
    [
        (["--ntasks-per-node=1", "--cpus-per-task=4"], 4),
        (["--ntasks-per-node=2", "--cpus-per-task=2", "--mem-per-cpu=100"], 4),
        (["--exclusive", "--export=NONE"], 4),
        (["--ntasks-per-node=1", "--cpus-per-task=3", "--mem=500"], 3),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else None,
)
def test_two_steps_of_slurm(slurm, tmp_path, options, cpus):
    """Protects: in a job of any shape, the agents run at once, on all CPUs, beside other steps."""
    script = tmp_path / "controller.py"
    script.write_text(CONTROLLER)
    command = f"cd {tmp_path}; {sys.executable} {script} {shlex.quote(AGENT)}"
    number = slurm.submit(f"#!/bin/sh\n{command}\n", "-N2", *options)
    done = slurm.wait(number)
    output = slurm.output(number)
    assert done.status == 0, output
    granted, seen, said, statuses = json.loads(output.splitlines()[-1])

    assert granted == [cpus, cpus]
    assert said == ["hello 0\n", "hello 1\n"]
    assert statuses == [0, 0]
    for (before, after), node in zip(seen, slurm.names, strict=True):
        assert before == {"SLURM_NTASKS": "1", "SLURM_CPUS_ON_NODE": str(cpus)}
        assert after["SLURMD_NODENAME"] == node
        assert after["SLURM_JOB_NUM_NODES"] == "2"
        assert not set(after) & {*TASK, *BATCH_TASKS, *USERS}
