"""The agent's side of op builds: each op once, outside, while tests go on.

The work is done by ``build_op`` processes; here they are started, waited for in the agent's
selector, and their end is told to whoever waits.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from pytest_deepspeed.processes import channel, containment, op_cache, ops, progress

#: Called with the path of the finished library and an empty text, or the other way round.
Done = Callable[[str, str], None]


class _Build:
    """One build under way."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.pidfd = os.pidfd_open(process.pid)
        self.started = time.monotonic()
        self.waiting: list[Done] = []
        self.telling: progress.Telling | None = None


class Builds:
    """The op builds that this agent has started.

    Args:
        device: ``"cpu"`` or ``"cuda"``; the key of the cache.
        selector: the agent's.
        send: writes a frame to the controller, which shows the progress.
        folder: where they tell `progress` too; empty where nobody looks.
    """

    def __init__(
        self,
        device: str,
        selector: selectors.BaseSelector,
        send: Callable[[channel.Frame], None],
        folder: str,
    ) -> None:
        self._device = device
        self._selector = selector
        self._send = send
        self._folder = folder
        self._running: dict[str, _Build] = {}
        self._failed: dict[str, str] = {}
        self._loaded: set[str] = set()

    @property
    def pids(self) -> set[int]:
        """The build processes, which are no strays of a test."""
        return {b.process.pid for b in self._running.values()}

    def prepare(self, names: Iterable[str]) -> None:
        """Starts what is not built yet, ahead of the tests that need it; loads what is."""
        for name in names:
            if not self._load(name):
                self._start(name)

    def keep(self, names: Iterable[str]) -> None:
        """Loads those of some ops that are built and not loaded yet."""
        for name in names:
            if name not in self._loaded:
                self._load(name)

    def request(self, name: str, done: Done) -> None:
        """Calls ``done`` when the op is there or its build has failed, at once where that is so."""
        path = op_cache.built(name, self._device)
        if path is not None:
            done(str(path), "")
        elif name in self._failed:
            done("", self._failed[name])
        else:
            self._start(name)
            self._running[name].waiting.append(done)

    def _load(self, name: str) -> bool:
        """Loads a built op into the agent, so that its ranks have it by fork."""
        path = op_cache.built(name, self._device)
        if path is None:
            return False
        if name not in self._loaded:
            ops.load_built(name, path)
            self._loaded.add(name)
            if name == "cpu_adam":
                _ask_for_cpu()
        return True

    def _start(self, name: str) -> None:
        if name in self._running or name in self._failed:
            return
        log = os.fdopen(os.memfd_create(f"build-{name}"), "w+b")
        process = subprocess.Popen(
            ops.command(name, self._device),
            env=ops.environment(os.environ, self._device),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        build = self._running[name] = _Build(name, process, log)
        self._selector.register(build.pidfd, selectors.EVENT_READ, lambda: self._end(build))
        if self._folder:
            file = Path(self._folder, f"{os.getpid()}-{name}")
            build.telling = progress.Telling(file, name)
            build.telling.say(doing=progress.COMPILING)
        self._tell(f"building DeepSpeed's op {name}, once for this machine")

    def _end(self, build: _Build) -> None:
        self._selector.unregister(build.pidfd)
        os.close(build.pidfd)
        del self._running[build.name]
        status = build.process.wait()
        build.log.seek(0)
        text = build.log.read().decode(errors="replace").strip()
        build.log.close()
        if build.telling:
            build.telling.end()
        path = op_cache.built(build.name, self._device)
        seconds = time.monotonic() - build.started
        if status == 0 and path is not None:
            self._tell(f"DeepSpeed's op {build.name} is built, in {seconds:.0f} s")
            self._load(build.name)
        else:
            self._failed[build.name] = text or f"the build of {build.name} exited with {status}"
            self._tell(f"DeepSpeed's op {build.name} could not be built:\n{text}")
        for done in build.waiting:
            done(str(path or ""), self._failed.get(build.name, ""))

    def _tell(self, text: str) -> None:
        self._send({"type": "progress", "text": text})

    def close(self) -> None:
        """Ends the builds that still run; what they had compiled is not counted as built."""
        for build in self._running.values():
            containment.kill(build.process.pid)
            build.process.wait()
            self._selector.unregister(build.pidfd)
            os.close(build.pidfd)
            build.log.close()
            if build.telling:
                build.telling.end()
        self._running.clear()


def _ask_for_cpu() -> None:
    """`DeepSpeedCPUAdam` asks for the CPU's name on each construction; remembered from here on."""
    with contextlib.suppress(ImportError):
        import cpuinfo

        cpuinfo.get_cpu_info()


_pipe: tuple[int, channel.FrameReader] | None = None


def connect(write_fd: int, read_fd: int) -> None:
    """In a rank after its fork: the pipes over which it asks its agent for ops."""
    global _pipe
    _pipe = (write_fd, channel.FrameReader(read_fd))


def obtain(name: str) -> Path:
    """The finished library of an op that DeepSpeed wants to load in this process.

    A rank asks its agent, whose clock for the test stands meanwhile. The agent itself, where a
    module loads an op when it is imported, waits for the build.

    Raises:
        op_cache.OpBuildError: the op could not be built.
    """
    if _pipe is None:
        return _build_here(name)
    write_fd, reader = _pipe
    channel.write(write_fd, {"type": "op", "name": name})
    while not reader.closed:
        for frame in reader.read():
            if frame["error"]:
                raise op_cache.OpBuildError(frame["error"])
            return Path(frame["path"])
    sys.exit("the agent is gone")


def _build_here(name: str) -> Path:
    device = os.environ["DS_ACCELERATOR"]
    done = subprocess.run(
        ops.command(name, device),
        env=ops.environment(os.environ, device),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    path = op_cache.built(name, device)
    if done.returncode or path is None:
        raise op_cache.OpBuildError(done.stderr.strip() or f"the build of {name} failed")
    return path
