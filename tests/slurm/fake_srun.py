"""A stand-in for srun 22.05 that runs a one-task step on this machine; see `install`.

What it prints and returns where a step fails is what srun 22.05.8 printed and returned.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time

#: Options that it knows, with a value and without one; any other is refused as srun does.
VALUED = {"nodes", "ntasks", "nodelist", "cpus-per-task", "gpus", "mem", "cpu-bind", "mpi"}
VALUED |= {"kill-on-bad-exit", "export"}
FLAGS = {"overlap", "unbuffered"}

#: How a step can fail, in FAKE_SRUN: ``n2=down,n1=cancelled:0.5``, with seconds after its start.
WAYS = ("down", "no-python", "expired", "cancelled", "node-failure")


def install(folder, nodes="n[1-2]", counts="4(x2)", **failing):
    """Puts a fake ``srun`` into ``folder``.

    Args:
        folder: `Path` of a folder of its own, which becomes the first of PATH.
        nodes: ``SLURM_JOB_NODELIST``.
        counts: ``SLURM_JOB_CPUS_PER_NODE``.
        failing: node to one of `WAYS`.

    Returns:
        the environment of a batch script with two tasks on each node: what is to be added to
        ``os.environ``. Its scontrol fails, as where slurmctld does not answer.
    """
    folder.mkdir(exist_ok=True)
    program = shlex.join([sys.executable, "-I", "-S", __file__])
    for name, line in (("srun", f'exec {program} "$@"'), ("scontrol", "exit 1")):
        command = folder / name
        command.write_text(f"#!/bin/sh\n{line}\n")
        command.chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_JOB_CPUS_PER_NODE": counts,
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_PROCID": "0",
        "SLURM_LABELIO": "1",
        "FAKE_SRUN": ",".join(f"{node}={way}" for node, way in failing.items()),
    }


def _options(arguments):
    options = {}
    while arguments and arguments[0].startswith("-"):
        word = arguments.pop(0)
        if word == "--":
            break
        name, _, value = word.removeprefix("--").partition("=")
        if name not in (VALUED if value else FLAGS):
            _end(
                255,
                f"srun: unrecognized option '--{name}'",
                'Try "srun --help" for more information',
            )
        options[name] = value
    return options, arguments


def _variables(node, options):
    """What srun sets; the rest is as srun got it."""
    step = str(os.getpid())
    ntasks = options.get("ntasks", os.environ.get("SLURM_NTASKS", "1"))
    return {
        "SLURMD_NODENAME": node,
        "SLURM_CPUS_ON_NODE": options.get("cpus-per-task", "1"),
        "SLURM_CPU_BIND": "quiet,none",
        "SLURM_GTIDS": "0",
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_LOCALID": "0",
        "SLURM_NNODES": options.get("nodes", "2"),
        "SLURM_NODEID": "0",
        "SLURM_NPROCS": ntasks,
        "SLURM_NTASKS": ntasks,
        "SLURM_PROCID": "0",
        "SLURM_SRUN_COMM_HOST": "127.0.0.1",
        "SLURM_STEPID": step,
        "SLURM_STEP_ID": step,
        "SLURM_STEP_NODELIST": node,
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": ntasks,
        "SLURM_STEP_TASKS_PER_NODE": ntasks,
        "SLURM_TASKS_PER_NODE": ntasks,
        "SLURM_TASK_PID": step,
        "SLURM_TOPOLOGY_ADDR": node,
        "SLURM_UMASK": "0022",
        "SRUN_DEBUG": "3",
    } | ({"SLURM_CPUS_PER_TASK": options["cpus-per-task"]} if "cpus-per-task" in options else {})


def _end(status, *lines):
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    os._exit(status)


def _nodes(listed):
    """Enough of a node list for this file's tests: ``n[1-3]``."""
    prefix, bracket, numbers = listed.partition("[")
    if not bracket:
        return listed.split(",")
    first, _, last = numbers.rstrip("]").partition("-")
    return [f"{prefix}{n}" for n in range(int(first), int(last or first) + 1)]


class Step:
    """The task, and what is printed at its end."""

    def __init__(self, node, options, command):
        self.node, self.name = node, f"{os.environ['SLURM_JOB_ID']}.{os.getpid()}"
        # Who ends the step tells why, from whichever thread, and nobody else does.
        self.told = threading.RLock()
        try:
            self.task = subprocess.Popen(command, env=os.environ | _variables(node, options))
        except OSError as error:
            print(
                f"slurmstepd-{node}: error: execve(): {error.filename}: {error.strerror}",
                file=sys.stderr,
            )
            self.end(error.errno)

    def end(self, status):
        """As srun reports a task's end: ``status`` is that of `subprocess`."""
        self.told.acquire()
        if status == 0:
            os._exit(0)
        how = signal.strsignal(-status) if status < 0 else f"Exited with exit code {status}"
        _end(
            128 - status if status < 0 else status,
            f"srun: error: {self.node}: task 0: {how}",
            f"srun: launch/slurm: _step_signal: Terminating StepId={self.name}",
        )

    def cancel(self, *_):
        """What scancel does, or SIGTERM to srun."""
        self.told.acquire()
        self.task.kill()
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        _end(
            137,
            "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.",
            f"slurmstepd-{self.node}: error: *** STEP {self.name} ON {self.node} CANCELLED AT"
            f" {now} ***",
            f"srun: error: {self.node}: task 0: Killed",
        )

    def lose_node(self):
        """What srun says once slurmctld has given the node up."""
        self.told.acquire()
        self.task.kill()
        _end(0, f"srun: error: Node failure on {self.node}")


def main():
    """Runs the step."""
    options, command = _options(sys.argv[1:])
    job, node = os.environ["SLURM_JOB_ID"], options.get("nodelist", "")
    failing = dict(item.split("=") for item in os.environ.get("FAKE_SRUN", "").split(",") if item)
    way, _, seconds = failing.get(node, "").partition(":")
    if way == "expired":
        _end(
            1,
            f"srun: error: Slurm job {job} has expired",
            f"srun: Check SLURM_JOB_ID environment variable. Expired or invalid job {job}",
        )
    if way == "down" or node not in _nodes(os.environ["SLURM_JOB_NODELIST"]):
        problem = "Requested node configuration is not available"
        _end(1, f"srun: error: Unable to create step for job {job}: {problem}")
    if way == "no-python":
        command[0] = "/no/such/python"
    told = []  # to end, before the step is known here
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    step = Step(node, options, command)
    signal.signal(signal.SIGTERM, step.cancel)
    if told:
        step.cancel()
    later = {"cancelled": step.cancel, "node-failure": step.lose_node}
    if way in later:
        timer = threading.Timer(float(seconds or 0), later[way])
        timer.daemon = True
        timer.start()
    step.end(step.task.wait())


if __name__ == "__main__":
    main()
