"""One machine of a test cluster: a process that starts daemons and outlives all they start.

It reads commands from its standard input, a line each with tabs between the words, and starts them
as daemons. Where that input ends, because it was closed or because the process that held it died,
it kills all its descendants and exits. It is their subreaper: what a daemon or a job's task leaves
behind becomes its child and does not get away, however often it forked and whatever its session.

With the argument ``login`` it also kills the clients of the cluster: srun, salloc and what that
started. They are nobody's descendants; SLURM_CONF in their environment tells them.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def descendants(pid):
    """The processes that ``pid`` or a descendant of it is the parent of, without zombies."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                state, parent = stat.rpartition(")")[2].split()[:2]
                children.setdefault(int(parent), []).append((int(entry), state))
    found, todo = [], [pid]
    while todo:
        for child, state in children.get(todo.pop(), ()):
            todo.append(child)
            if state != "Z":
                found.append(child)
    return found


def users(conf):
    """The processes that were started with ``SLURM_CONF=conf``."""
    found = []
    for entry in os.listdir("/proc"):
        # A process that is another user's, or none any more, cannot be read.
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{entry}/environ").read_bytes() if entry.isdecimal() else b""
            if f"SLURM_CONF={conf}".encode() in environ.split(b"\0"):
                found.append(int(entry))
    return found


def command_line(pid):
    """What a process was started as; "" where it does not run, which includes a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""


class Machine:
    """A running one. ``prefix`` is a command that starts commands, ``kind`` its arguments."""

    def __init__(self, log, env, prefix=(), kind=()):
        self.log = log
        self._daemons = []
        self._awaited = ["ready"]
        with log.open("a") as output:
            self._init = subprocess.Popen(
                [*prefix, sys.executable, "-I", "-S", __file__, *kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                text=True,
                bufsize=1,
                # Ctrl-C at the terminal is for pytest, which then ends the cluster in order.
                start_new_session=True,
            )

    @property
    def pid(self):
        return self._init.pid

    def start(self, *command):
        """Starts a daemon, once the machine is there; does not wait."""
        self._init.stdin.write("\t".join(map(str, command)) + "\n")
        self._daemons.append(Path(command[0]).name)
        self._awaited.append("started")

    def wait(self):
        """Waits until the machine is there and has started its daemons."""
        while self._awaited:
            if self._init.stdout.readline() != f"{self._awaited.pop(0)}\n":
                raise RuntimeError(f"{self.log.name}:\n{self.log.read_text()}")

    def ended(self):
        """The daemons that were started and do not run any more."""
        self.wait()
        # On a busy machine a process that lives was seen without a command line, once.
        return self._not_seen() and self._not_seen(after=0.2)

    def _not_seen(self, after=0.0):
        time.sleep(after)
        running = {Path(line.split()[0]).name for line in self.processes().values()}
        return [name for name in self._daemons if name not in running]

    def processes(self):
        """``{pid: command line}`` of what runs on the machine."""
        found = {pid: command_line(pid) for pid in descendants(self.pid)}
        return {pid: line for pid, line in found.items() if line}

    def kill(self):
        """Kills all that runs on the machine, and waits until it is gone."""
        self._init.stdin.close()
        self._init.wait()
        self._init.stdout.close()


def _start(command):
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    to_log = (os.POSIX_SPAWN_DUP2, 2, 1)
    os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[null, to_log],
        setsigdef=[signal.SIGCHLD],
    )
    print("started", flush=True)


def _all():
    found = set(descendants(os.getpid()))
    if "login" in sys.argv:
        found.update(users(os.environ["SLURM_CONF"]))
    return found - {os.getpid()}


def _kill_all():
    while left := _all():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever dies is reaped by the kernel
    print("ready", flush=True)
    try:
        for line in iter(sys.stdin.readline, ""):
            _start(line.rstrip("\n").split("\t"))
    finally:
        _kill_all()
