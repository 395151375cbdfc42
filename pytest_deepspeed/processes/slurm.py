"""The Slurm allocation that pytest runs in, and one ``srun`` step on each of its nodes.

Options: srun(1) of Slurm 22.05; what srun says: its output there. Both were tried with 22.05.8.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from pytest_deepspeed.processes import slurm_variables
from pytest_deepspeed.values import nodelist
from pytest_deepspeed.values.errors import LaunchError

_SCONTROL_TIMEOUT = 10.0  # seconds; what it says is not needed where Slurm is not well

#: A line of `scontrol --details show job`, for nodes on which the job has the same.
_NODES = re.compile(r"^ +Nodes=(?P<nodes>\S+) .*\bGRES=(?P<gres>.*)$", re.MULTILINE)
#: One item of its GRES: ``gpu:2(IDX:0-1)``, ``gpu:a100:2(IDX:0,3)``.
_GPUS = re.compile(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)\(")


@dataclasses.dataclass(frozen=True)
class Allocation:
    """What Slurm granted.

    Attributes:
        job_id: ``SLURM_JOB_ID``.
        nodes: names of the nodes, in Slurm's order.
        cpus: of the job on each node; 0 where unknown.
        gpus: of the job on each node; 0 where it has none, or where Slurm cannot be asked.
    """

    job_id: str
    nodes: tuple[str, ...]
    cpus: tuple[int, ...]
    gpus: tuple[int, ...]


def current(environ: Mapping[str, str] = os.environ) -> Allocation | None:
    """The allocation that this process runs in, or None outside of one.

    Raises:
        LaunchError: the environment names a job, and no list of its nodes that can be read.
    """
    job_id = environ.get("SLURM_JOB_ID")
    if not job_id:
        return None
    try:
        nodes = _hostnames(environ.get("SLURM_JOB_NODELIST", ""))
    except ValueError as error:
        raise LaunchError(
            f"SLURM_JOB_ID={job_id} is set, and SLURM_JOB_NODELIST is {error}. Start pytest in"
            " the shell of the job itself, or unset SLURM_JOB_ID if this is none."
        ) from error
    cpus = _cpus(environ.get("SLURM_JOB_CPUS_PER_NODE", ""), len(nodes))
    return Allocation(job_id, nodes, cpus, _gpus(job_id, nodes))


def granted(
    asked: int,
    arguments: Sequence[str | os.PathLike[str]] = (),
    environ: Mapping[str, str] = os.environ,
) -> Allocation:
    """The first ``asked`` nodes of the current allocation.

    Args:
        asked: number of nodes, of ``--ds-nodes``.
        arguments: what pytest was given, for the lines of the message that are to be typed.

    Raises:
        LaunchError: there is no allocation, it has fewer nodes, or no ``srun`` is on PATH.
    """
    allocation = current(environ)
    sbatch, salloc = _lines(asked, arguments)
    if allocation is None:
        raise LaunchError(
            f"--ds-nodes={asked} needs a Slurm job, and this is none (SLURM_JOB_ID is not set)."
            f" Submit one:\n    {sbatch}\nor run in an interactive one:\n    {salloc}\n"
            f"With --ds-launcher=local the nodes are emulated on this machine."
        )
    nodes = allocation.nodes
    if len(nodes) < asked:
        raise LaunchError(
            f"--ds-nodes={asked} asks for more nodes than job {allocation.job_id} has:"
            f" {len(nodes)} ({environ['SLURM_JOB_NODELIST']}). Use --ds-nodes={len(nodes)}, or"
            f" submit a larger job:\n    {sbatch}"
        )
    if shutil.which("srun", path=environ.get("PATH")) is None:
        raise LaunchError(
            f"--ds-nodes={asked} starts an agent on each node of job {allocation.job_id} with"
            " srun, and srun is not on PATH. Add the folder of Slurm's commands to PATH (`type"
            " srun` in a login shell shows it); in a container they have to be bound into it."
        )
    return Allocation(
        allocation.job_id, nodes[:asked], allocation.cpus[:asked], allocation.gpus[:asked]
    )


def _lines(asked: int, arguments: Sequence[str | os.PathLike[str]]) -> tuple[str, str]:
    """How to run these tests on so many nodes: with sbatch, with salloc."""
    given = [os.fspath(argument) for argument in arguments]
    if not any(a.split("=")[0] == "--ds-nodes" for a in given):  # it came from the ini file
        given = [f"--ds-nodes={asked}", *given]
    size = f"--nodes={asked} --ntasks-per-node=1 --cpus-per-task=4 --time=00:30:00"
    words = shlex.join(given)
    script = shlex.quote(_script())
    return f"sbatch --nodes={asked} {script} {words}", f"salloc {size} bash {script} {words}"


def _script() -> str:
    """The batch script, in the package or beside it in a clone, as one would type it here."""
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):
        script = folder / "slurm" / "pytest.sbatch"
        if script.is_file():
            inside = script.is_relative_to(Path.cwd())
            return str(script.relative_to(Path.cwd()) if inside else script)
    return "slurm/pytest.sbatch"


def _hostnames(listed: str) -> tuple[str, ...]:
    """Names of a node list, by Slurm itself where it is there.

    Raises:
        ValueError: it is no such list.
    """
    shown = _scontrol("show", "hostnames", listed).split()
    return tuple(shown or nodelist.expand(listed))


def _cpus(counts: str, nodes: int) -> tuple[int, ...]:
    try:
        cpus = tuple(nodelist.per_node(counts))
    except ValueError:
        cpus = ()
    return cpus if len(cpus) == nodes else (0,) * nodes


def _gpus(job_id: str, nodes: tuple[str, ...]) -> tuple[int, ...]:
    """What Slurm has given; variables tell what was asked for, and of the first node at most."""
    found: dict[str, int] = {}
    for line in _NODES.finditer(_scontrol("--details", "show", "job", job_id)):
        count = sum(map(int, _GPUS.findall(line["gres"])))
        found.update(dict.fromkeys(nodelist.expand(line["nodes"]), count))
    return tuple(found.get(node, 0) for node in nodes)


def _scontrol(*arguments: str) -> str:
    """What it prints; nothing where it is missing or fails."""
    try:
        return subprocess.run(
            ["scontrol", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SCONTROL_TIMEOUT,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def srun_command(allocation: Allocation, node_index: int, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` once, on one node of the allocation.

    To be started with `srun_environment`. The step gets all that the job has on that node, shared
    with the batch script and other steps; its stdin, stdout and stderr are those of srun.
    """
    cpus, gpus = allocation.cpus[node_index], allocation.gpus[node_index]
    return [
        "srun",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={allocation.nodes[node_index]}",
        "--overlap",  # does not wait for CPUs that another step has
        # Since 22.05 a step does not inherit the job's number.
        *([f"--cpus-per-task={cpus}"] if cpus else []),
        # Without it the step inherits the request of the job: with --gpus-per-task=1 the one task
        # gets one device, and with --gpus=4 over two nodes the step is refused.
        *([f"--gpus={gpus}"] if gpus else []),
        "--mem=0",  # all that the job has there, whichever way it was asked for
        "--cpu-bind=none",  # ranks are not one task, to be pinned as such
        "--mpi=none",  # ranks meet through torch's store
        "--kill-on-bad-exit=1",
        "--export=ALL",
        "--unbuffered",
        "--",
        *command,
    ]


def srun_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for `srun_command`: without what would make of its step another one."""
    unwanted = slurm_variables.STEP + slurm_variables.OPTIONS
    return {k: v for k, v in environ.items() if not slurm_variables.is_of(unwanted, k)}


def scrub(environ: MutableMapping[str, str]) -> None:
    """Removes what describes the step, in place; what describes the job and the node stays."""
    for name in [name for name in environ if slurm_variables.is_of(slurm_variables.STEP, name)]:
        del environ[name]


_SAME = "all nodes need the same environment, which slurm/config_env.sh makes on each"
#: What srun and slurmstepd print, and what it means; empty where the agent has said it itself.
_MEANINGS = {
    r"execve\(\): (.+): No such file or directory": "{} does not exist there: " + _SAME,
    r"execve\(\): (.+): Permission denied": "{} may not be executed there: " + _SAME,
    r"oom[-_]kill|task 0: Out Of Memory": "it used more memory than the job has there (--mem)",
    r"CANCELLED AT \S+ DUE TO TIME LIMIT": "the job has reached its time limit (--time)",
    r"CANCELLED AT \S+ DUE TO PREEMPTION": "the job was preempted by another one",
    r"CANCELLED AT \S+ DUE TO JOB REQUEUE": "the job was put back into the queue",
    r"CANCELLED AT \S+ DUE TO NODE FAILURE|error: Node failure on": "Slurm reports a node failure",
    r"CANCELLED AT \S+ \*\*\*": "its step, or the job, was cancelled",
    r"task 0: Exited with exit code": "",
    r"task 0: (Killed|Terminated|Segmentation fault|Bus error|Aborted)": "a signal ended it ({})",
    "Communication connection failure": "slurmd does not answer there",
    "Requested node configuration is not available": "the node is down, or not in the job any more",
    "More processors requested than permitted": "the job has fewer CPUs there than it was granted",
    r"Invalid generic resource \(gres\) specification": "the job has fewer GPUs there than granted",
    "step creation temporarily disabled, retrying": "Slurm kept its step waiting for the node",
    r"Slurm job \S+ has expired|Invalid job id specified": "the job has ended",
    "Job/step already completing or completed": "the job is about to end",
    "Unable to contact slurm controller": "slurmctld does not answer",
    "Munge encode failed": "munge, by which Slurm knows its users, does not run here",
    "cannot stat file|Could not establish a config": "srun does not find slurm.conf (SLURM_CONF)",
    r"unrecognized option '(\S+?)[='].*": "this srun has no option {}: Slurm 22.05 is the oldest",
}


def why_srun_failed(stderr: str, status: int) -> str:
    """What made srun end, in plain words and one line; empty if it is nothing known.

    Args:
        stderr: what srun wrote there, which has slurmstepd's words too. What was said first
            counts: the rest follows from it.
        status: exit status of srun, negative if a signal ended srun itself. Its other values tell
            nothing: 0 after a node failure, 2 for a missing file as for a program that returns 2.
    """
    found = [(match, text) for p, text in _MEANINGS.items() if (match := re.search(p, stderr))]
    if found:
        # slurmstepd's words on what it cannot run may come after srun's on the exit that follows.
        match, text = min(found, key=lambda each: ("execve" not in each[0][0], each[0].start()))
        return text.format(*match.groups())
    return f"srun itself was ended by {signal.Signals(-status).name}" if status < 0 else ""
