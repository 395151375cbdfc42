"""Builds one DeepSpeed op: ``python -m pytest_deepspeed.processes.build_op NAME``.

The program is two processes. The first holds the op's file lock, reports on stdout and cleans up.
The second, forked from it, compiles (:mod:`pytest_deepspeed.processes.compile_op`). When either is
killed the other ends every compiler: ninja puts each compiler in a process group of its own, so
both are subreapers and go by parentage.

torch guards its build folder with a file, ``FOLDER/lock`` (``torch.utils.file_baton``), on which it
waits without end, even when the process that made the file is dead. That process keeps the file
open, and ninja and the compilers work in the folder. So, while we hold our own lock, the file is
stale exactly if no process has it open and none has the folder as its working directory. Only
processes of this machine that this user may look at are seen.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from pytest_deepspeed.processes.compile_op import run_and_exit
from pytest_deepspeed.processes.containment import adopt_orphans, die_with_parent, kill_strays
from pytest_deepspeed.processes.op_cache import OpBuildError, built, make_cache_dir, stamp
from pytest_deepspeed.processes.ops import environment

PROGRESS = 10.0
"""Seconds between two lines about the same wait."""

TYPICAL = {"deepspeed_shm_comm": 33, "fused_adam": 50, "cpu_adam": 52, "async_io": 242}
"""Seconds on two cores with nothing else running (DeepSpeed 0.19.8, torch 2.13, g++ 12)."""

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def build(name: str, accelerator: str) -> None:
    """Build op `name`, or wait until another process has built it.

    Raises:
        OpBuildError: the cache cannot be written to, or the compiling process was killed.
        SystemExit: the compiling process failed, and has said why on stderr.
    """
    folder = make_cache_dir(accelerator)
    began = time.monotonic()
    with _locked(name, folder):
        if built(name, accelerator):
            _say(f"{name}: already built")
            return
        # A library without a valid stamp may be cut off, and ninja looks only at its time.
        (folder / name / f"{name}.so").unlink(missing_ok=True)
        _clear_baton(name, (folder / name).resolve())
        try:
            _compile(name, accelerator, folder / f"{name}.log")
        finally:
            _end_compilers(folder / name)
        stamp(name, accelerator)
        _say(f"{name}: ready in {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def _locked(name: str, folder: Path) -> Iterator[None]:
    """Hold the op's lock; report who has it as long as somebody else does."""
    lock = FileLock(folder / f"{name}.lock")
    owner = folder / f"{name}.owner"
    began = time.monotonic()
    for seconds in itertools.chain([1.0], itertools.repeat(PROGRESS)):
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=seconds, poll_interval=0.1)
            break
        pid, host = owner.read_text().split() if owner.exists() else ("unknown", "unknown host")
        waited = time.monotonic() - began
        _say(f"{name}: waiting for the build by process {pid} on {host}, {waited:.0f} s so far")
    try:
        owner.write_text(f"{os.getpid()} {socket.gethostname()}\n")
        yield
    finally:
        lock.release()


def _clear_baton(name: str, folder: Path) -> None:
    """Remove torch's own lock file once nobody builds in `folder`; see the top of this file."""
    began = reported = time.monotonic()
    while pids := _builders(folder):
        if time.monotonic() - reported >= PROGRESS or reported == began:
            reported = time.monotonic()
            _say(
                f"{name}: waiting for process {', '.join(map(str, pids))}, which builds in "
                f"{folder} without our lock, {reported - began:.0f} s so far"
            )
        time.sleep(0.2)
    (folder / "lock").unlink(missing_ok=True)


def _builders(folder: Path) -> list[int]:
    """Processes that work in torch's build folder, or hold its lock file open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # gone, or another user's
            links = (os.readlink(entry) for entry in os.scandir(f"/proc/{pid}/fd"))
            if os.readlink(f"/proc/{pid}/cwd") == str(folder) or str(folder / "lock") in links:
                found.append(int(pid))
    return found


def _compile(name: str, accelerator: str, log: Path) -> None:
    """Fork the compiling process and report until it has ended."""
    about = f" (about {TYPICAL[name]} s on two idle cores)" if name in TYPICAL else ""
    began = time.monotonic()
    _say(f"{name}: compiling{about}")
    env = environment(os.environ, accelerator)
    supervisor = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # until the child has handlers of its own
    pid = os.fork()
    if pid == 0:
        run_and_exit(name, env, log, supervisor)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    while not ended.poll(PROGRESS * 1000):
        _say(f"{name}: compiling, {time.monotonic() - began:.0f} s so far{about}")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        raise OpBuildError(
            f"DeepSpeed op {name} was not built: the compiling process was killed by "
            f"{signal.Signals(-code).name}; if memory ran out, build with fewer compilers at a "
            f"time: MAX_JOBS=1"
        )
    if code > 0:
        sys.exit(1)


def _end_compilers(folder: Path) -> None:
    """After success, failure or a signal alike: no process and no baton of ours is left."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    kill_strays(keep=set())
    if not _builders(folder.resolve()):
        (folder / "lock").unlink(missing_ok=True)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the reader is gone; the build is not its alone
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 with a message on stderr if the op cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m pytest_deepspeed.processes.build_op")
    parser.add_argument("name", help="the op, as DeepSpeed names it, such as fused_adam")
    name = parser.parse_args(arguments).name

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(OSError):
            os.write(2, f"{name}: stopped by {signal.Signals(number).name}\n".encode())
        sys.exit(128 + number)

    for number in _STOPS:
        signal.signal(number, stop)
    die_with_parent(os.getppid(), signal.SIGTERM)
    adopt_orphans()
    try:
        build(name, os.environ.get("DS_ACCELERATOR", "cpu"))
    except OpBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
