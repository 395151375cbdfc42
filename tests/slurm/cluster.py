"""A real Slurm cluster on this machine, for the time of a test.

One munged, one slurmctld and a slurmd per node, on free ports, with every file in a directory of
the cluster's own: any number of clusters can run side by side. Neither root, nor systemd, nor
cgroups are needed. See `machine` for how nothing of it survives.
"""

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import machine
from machine import Machine, command_line

CPUS = 4  # of each node, however many there are in truth
SECONDS_TO_START = 30
_COMMANDS = ("slurmctld", "slurmd", "munged", "srun")
_RUNNING = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED"}

_CONF = """\
ClusterName=test
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
MailProg=/bin/true
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_min_interval=0
ReturnToService=2
SlurmdTimeout=5
KillWait=5
MinJobAge=3600
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=NO
"""
_NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr={address} Port={port} CPUs={cpus}"
    " RealMemory=100000\n"
)

#: Text for slurm.conf: a node that says nothing is lost in 9 seconds, not 25. Its price is that one
#: that only is slow may be taken for lost.
QUICK_TO_SEE_A_LOSS = "MessageTimeout=2\n"


def missing():
    """Why there can be no cluster here, and what to type; "" where there can."""
    names = ", ".join(name for name in _COMMANDS if which(name) is None)
    packages = "slurmctld slurmd munge slurm-client"
    return f"Slurm is missing ({names}): apt-get install {packages}" if names else ""


def which(command):
    """The path of a command, also where daemons are: not on every user's PATH."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that has ended: Slurm's word for how, and the exit status and signal of its script."""

    state: str
    status: int
    signal: int


class Cluster:
    """A cluster of the nodes n1, n2, ..., in a directory that nothing else uses.

    ``conf`` is more text for its slurm.conf.
    """

    def __init__(self, folder, nodes=2, conf=""):
        self.folder = Path(folder)
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.env = {k: v for k, v in os.environ.items() if not re.match("SLURM|SRUN_|SBATCH_", k)}
        self.env["SLURM_CONF"] = f"{folder}/slurm.conf"
        self.env["PYTHONFAULTHANDLER"] = "1"
        self._conf = conf
        self._machines = {}

    def __enter__(self):
        self._write()
        try:
            self._controller = self._machines["controller"] = self._machine("controller")
            self._start_controller()
            for name in self.names:
                self._machines[name] = self._machine(name)
            self._until_controller_runs()
            for name in self.names:
                self._start_slurmd(name)
            self._until_idle("the cluster did not come up", SECONDS_TO_START)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for each in self._machines.values():
            each.kill()
        self._machines.clear()

    # What a person at the cluster does.

    def login(self, cwd=None):
        """What a command is to be preceded by, so that it runs on the login node in ``cwd``."""
        return ["env", f"--chdir={cwd or self.folder / 'jobs'}"]

    def run(self, *command, check=True, timeout=60, cwd=None, env=None, **kwargs):
        """Runs ``srun``, ``scontrol``, ...; returns the `subprocess.CompletedProcess`, as text."""
        kwargs = {"capture_output": True, "input": ""} | kwargs
        done = subprocess.run(
            [*self.login(cwd), *map(str, command)],
            env=self.env if env is None else env,
            timeout=timeout,
            text=True,
            check=False,
            **kwargs,
        )
        if check and done.returncode:
            raise RuntimeError(f"{shlex.join(map(str, command))}: {done.returncode}\n{done.stderr}")
        return done

    def submit(self, script, *options, args=(), **kwargs):
        """Submits a script, a `Path` or its text, with sbatch's options; returns the job's id."""
        if isinstance(script, Path):
            command = ("sbatch", "--parsable", *options, script, *args)
        else:
            command = ("sbatch", "--parsable", *options, "/dev/stdin", *args)
            kwargs["input"] = script
        return int(self.run(*command, **kwargs).stdout)

    def show(self, job):
        """What ``scontrol show job`` says of a job, as ``{name: value}``."""
        text = self.run("scontrol", "--oneliner", "show", "job", job).stdout
        return dict(re.findall(r"(\S+?)=(.*?)(?= \S+=|\s*$)", text))

    def wait(self, job, timeout=60):
        """Waits for a job's end; the error of one that does not end shows where its tasks stand."""
        ends = time.monotonic() + timeout
        while (shown := self.show(job))["JobState"] in _RUNNING:
            if time.monotonic() > ends:
                text = f"job {job} is {shown['JobState']} after {timeout} s"
                raise self._error(f"{text}, and has written:\n{self._stacks(job)}")
            time.sleep(0.1)
        status, number = map(int, shown["ExitCode"].split(":"))
        return Job(shown["JobState"], status, number)

    def wait_running(self, job, timeout=10):
        """Waits for a job's start."""
        ends = time.monotonic() + timeout
        while (state := self.show(job)["JobState"]) != "RUNNING":
            if time.monotonic() > ends or state not in _RUNNING:
                raise self._error(f"job {job} is {state}")
            time.sleep(0.05)

    def output(self, job):
        """What a job's script has written so far."""
        return Path(self.show(job)["StdOut"]).read_text()

    def states(self):
        """``{node: state}`` in slurmctld's eyes, for example ``IDLE`` or ``DOWN*``."""
        text = self.run("scontrol", "--oneliner", "show", "nodes").stdout
        return dict(re.findall(r"NodeName=(\S+) .*? State=(\S+)", text))

    def settle(self, timeout=30):
        """Ends what is left of jobs and waits until all nodes are idle."""
        queued = self.run("squeue", "--noheader", "--format=%A").stdout.split()
        if queued:
            self.run("scancel", "--quiet", "--signal=KILL", *queued, check=False)
            self.run("scancel", "--quiet", *queued, check=False)
        self._until_idle("nodes did not become idle", timeout)

    # What happens to a cluster.

    def kill_node(self, name):
        """The node is lost: its slurmd, its slurmstepds and all tasks are killed at once."""
        self._machines.pop(name).kill()

    def kill_slurmd(self, name):
        """Kills slurmd alone; the node's jobs run on."""
        for pid, line in self._machines[name].processes().items():
            if _is_slurmd(line):
                os.kill(pid, signal.SIGKILL)

    def restart_controller(self):
        """Kills slurmctld, and starts it again from the state that it has saved."""
        for pid, line in self._controller.processes().items():
            if "slurmctld" in line:
                os.kill(pid, signal.SIGKILL)
        self._controller.start(which("slurmctld"), "-D")

    def restart_node(self, name):
        """Starts a node with nothing on it but its slurmd; kills what was left of it."""
        if name in self._machines:
            self.kill_node(name)
        self._machines[name] = self._machine(name)
        self._start_slurmd(name)

    def processes(self):
        """What runs of jobs and steps, as ``node: command line``; "login" has the clients."""
        found, known = [], set()
        for name, each in self._machines.items():
            processes = each.processes()
            known |= {each.pid, *processes}
            if name != "controller":
                found += [f"{name}: {x}" for x in processes.values() if not _is_of_node(x)]
        clients = set(machine.users(self.env["SLURM_CONF"])) - known
        found += [f"login: {line}" for pid in clients if (line := command_line(pid))]
        return sorted(found)

    # How it is made.

    def _write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("state", "jobs", *(f"spool-{name}" for name in self.names)):
            self.folder.joinpath(name).mkdir(exist_ok=True)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(64))
        (host, address, port), *nodes = self._addresses()
        uid = os.geteuid()
        text = _CONF.format(host=host, address=address, port=port, folder=self.folder, user=uid)
        for name, (host, address, port) in zip(self.names, nodes, strict=True):
            text += _NODE.format(name=name, host=host, address=address, port=port, cpus=CPUS)
        self.folder.joinpath("slurm.conf").write_text(text + self._conf)
        self.folder.joinpath("cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nConstrainCores=no\n"
            "ConstrainDevices=no\nConstrainRAMSpace=no\nConstrainSwapSpace=no\n"
        )

    def _addresses(self):
        """Host name, address and port of the controller and of each node."""
        host = socket.gethostname().partition(".")[0]
        return [(host, "127.0.0.1", port) for port in _free_ports(1 + len(self.names))]

    def _machine(self, name):
        return Machine(self.folder / f"{name}.log", self.env, kind=self._kind(name))

    def _kind(self, name):
        return ["login"] if name == "controller" else []

    def _start_controller(self):
        # Without --force it wants a directory, and all above it, that nobody else can write to.
        munged = [which("munged"), "--foreground", "--force"]
        munged.append(f"--socket={self.folder}/munge.socket")
        munged += [f"--{x}-file={self.folder}/munge.{x}" for x in ("key", "log", "pid", "seed")]
        self._controller.start(*munged)
        self._controller.start(which("slurmctld"), "-D", "-c")

    def _start_slurmd(self, name):
        self._machines[name].start(which("slurmd"), "-D", "-N", name)

    def _until_controller_runs(self):
        # A slurmd that is too early tries again a second later. That is all that this saves, so it
        # does not matter if a slurmctld of another version says something else.
        ends = time.monotonic() + 1
        while "Running as primary" not in self._controller.log.read_text():
            if time.monotonic() > ends:
                break
            time.sleep(0.01)

    def _until_idle(self, otherwise, timeout):
        ends = time.monotonic() + timeout
        while True:
            for each in self._machines.values():
                if ended := each.ended():
                    raise self._error(f"{otherwise.partition(':')[0]}: {ended[0]} ended")
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                states = self.states()
                if set(states.values()) == {"IDLE"}:
                    return
                otherwise = f"{otherwise.partition(':')[0]}: {states}"
            if time.monotonic() > ends:
                raise self._error(f"{otherwise} in {timeout} s")
            time.sleep(0.05)

    def _stacks(self, job):
        """What a job has written, with the stacks of what it runs if that is Python."""
        # Jobs inherit PYTHONFAULTHANDLER, with which Python writes them when it is aborted.
        self.run("scancel", "--signal=ABRT", job, check=False)
        time.sleep(3)
        return self.output(job)

    def _error(self, text):
        for each in self._machines.values():
            lines = each.log.read_text().splitlines()
            # The cause stands at the start, or just before the end.
            shown = lines if len(lines) <= 20 else [*lines[:10], "...", *lines[-10:]]
            text += f"\n{each.log}:" + "".join(f"\n  {line}" for line in shown)
        return RuntimeError(text)


def _is_slurmd(line):
    return line.split()[0].endswith("/slurmd")


def _is_of_node(line):
    return _is_slurmd(line) or line.endswith(machine.__file__)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
