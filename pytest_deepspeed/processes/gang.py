"""One world on one node: fork its ranks, hear them, hold them to their budgets, clean up.

Runs inside the agent, which has one thread: everything here is a callback of its selector.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.processes import channel, collectives, containment, rendezvous, stacks
from pytest_deepspeed.processes.output import Output
from pytest_deepspeed.processes.rank import RankJob, become_rank
from pytest_deepspeed.values.world import GRACE, World

#: Writes one frame to the controller.
Send = Callable[[channel.Frame], None]


@dataclasses.dataclass
class _Member:
    """One rank as its agent sees it."""

    rank: int
    pid: int
    pidfd: int
    events: channel.FrameReader
    replies: int
    stdout: Output
    stderr: Output
    stack: int
    page: collectives.Page
    ready: bool = False
    finished: bool = False
    exited_at: float | None = None
    status: int | None = None
    killed: str = ""
    trace: str = ""
    waits_for: str = ""


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What all worlds of an agent share.

    Attributes:
        threads: OpenMP threads of a rank.
        live: whether output goes to the terminal as it comes.
        coverage: keyword arguments of `coverage.Coverage`, or ``None``.
    """

    threads: int
    live: bool
    coverage: dict[str, Any] | None


class Gang:
    """The ranks of one world, from fork to the last exit.

    Args:
        world: its shape and budgets.
        item: what each rank runs.
        basetemp: existing directory that the ranks share.
        run_id: unique name.
        selector: the agent's; callbacks take no argument.
        send: writes a frame to the controller.
        build: asked for an op that a rank needs; calls back when it is there.
    """

    def __init__(
        self,
        world: World,
        item: pytest.Item,
        basetemp: Path,
        run_id: str,
        surroundings: Surroundings,
        selector: selectors.BaseSelector,
        send: Send,
        build: Callable[[str, Callable[[str, str], None]], None],
    ) -> None:
        self._world = world
        self._item = item
        self._basetemp = basetemp
        self._run_id = run_id
        self._around = surroundings
        self._selector = selector
        self._send = send
        self._build = build
        self._members: list[_Member] = []
        self._store = 0
        self._shm: dict[str, int] = {}
        self._keep: set[int] = set()
        self._phase = "start-up"
        self._left = world.startup_budget
        self._since = 0.0
        self._hang: tuple[str, float] | None = None
        self._kill_at: float | None = None
        self._aborted = False
        self._leaks: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether every rank is gone."""
        return all(m.exited_at is not None for m in self._members)

    def start(self) -> None:
        """Forks the ranks.

        Raises:
            RuntimeError: the agent has a second thread, or has initialised CUDA.
        """
        check_fork_is_safe()
        self._shm = containment.shared_memory()
        self._keep = set(containment.children())
        self._since = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        with rendezvous.listen() as server:
            self._store = _fork_store(server)
            port = server.getsockname()[1]
            for rank in range(self._world.world_size):
                self._members.append(self._fork(rank, server.fileno(), port))
        for member in self._members:
            self._selector.register(member.events, selectors.EVENT_READ, self._on_events(member))
            self._selector.register(member.pidfd, selectors.EVENT_READ, self._on_exit(member))
            for output in (member.stdout, member.stderr):
                output.watch(self._selector, self._forward(member.rank))

    def _fork(self, rank: int, listen_fd: int, port: int) -> _Member:
        events_read, events_write = os.pipe()
        replies_read, replies_write = os.pipe()
        live = self._around.live
        stdout, stderr = Output.make("stdout", live), Output.make("stderr", live)
        stack = os.memfd_create(f"stack-{rank}")
        page = collectives.Page()
        agent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._forget_peers(events_read, replies_write, listen_fd)
            become_rank(
                RankJob(
                    rank=rank,
                    world=self._world,
                    item=self._item,
                    events=events_write,
                    replies=replies_read,
                    stdout=stdout.write_fd,
                    stderr=stderr.write_fd,
                    stack=stack,
                    page=page,
                    addr="127.0.0.1",
                    port=port,
                    run_id=self._run_id,
                    basetemp=self._basetemp,
                    agent=agent,
                    threads=self._around.threads,
                    live=live,
                    coverage=self._around.coverage,
                )
            )
        for fd in (events_write, replies_read):
            os.close(fd)
        for output in (stdout, stderr):
            output.forked()
        return _Member(
            rank=rank,
            pid=pid,
            pidfd=os.pidfd_open(pid),
            events=channel.FrameReader(events_read),
            replies=replies_write,
            stdout=stdout,
            stderr=stderr,
            stack=stack,
            page=page,
        )

    def _forget_peers(self, *own: int) -> None:
        """In a rank: closes what belongs to the agent, so that no peer's pipe is held open."""
        peers = [fd for m in self._members for fd in (m.pidfd, m.events.fd, m.replies, m.stack)]
        for fd in (*own, *peers):
            os.close(fd)
        for member in self._members:
            member.stdout.forget()
            member.stderr.forget()

    # What ranks say

    def _on_events(self, member: _Member) -> Callable[[], None]:
        def handle() -> None:
            try:
                for frame in member.events.read():
                    self._hear(member, frame)
            except ValueError as error:
                self._kill(member, f"sent something that is no frame ({error})")
            if member.events.closed:
                self._selector.unregister(member.events)

        return handle

    def _hear(self, member: _Member, frame: channel.Frame) -> None:
        kind = frame["type"]
        if kind == "op":
            self._wait_for_op(member, str(frame["name"]))
            return
        self._send({**frame, "rank": member.rank, "event": kind, "type": "rank"})
        if kind == "ready":
            member.ready = True
            if all(m.ready for m in self._members):
                self._next_budget("body", self._world.body_budget)
        elif kind == "finished":
            member.finished = True
            self._end_store()
        elif kind == "report" and _ends_the_test(frame):
            self._shorten(GRACE)

    def _wait_for_op(self, member: _Member, name: str) -> None:
        """A rank needs an op: build it outside, with the clock stopped."""
        self._pause()
        member.waits_for = name

        def done(path: str, error: str) -> None:
            member.waits_for = ""
            with contextlib.suppress(OSError):
                channel.write(member.replies, {"path": path, "error": error})
            self._resume()

        self._build(name, done)

    def _on_exit(self, member: _Member) -> Callable[[], None]:
        def handle() -> None:
            member.exited_at = time.monotonic()
            self._selector.unregister(member.pidfd)
            _, status = os.waitpid(member.pid, 0)
            member.status = os.waitstatus_to_exitcode(status)
            if not member.events.closed:
                with contextlib.suppress(ValueError):
                    for frame in member.events.drain():
                        self._hear(member, frame)
                if not member.events.closed:
                    self._selector.unregister(member.events)
            if not member.killed and (not member.finished or member.status != 0):
                self._shorten(GRACE)
            self._end_store()

        return handle

    def _end_store(self) -> None:
        """Ends it with the last rank that may read it, so that nobody waits for its end later."""
        if all(m.finished or m.exited_at is not None for m in self._members):
            containment.kill(self._store)

    def _forward(self, rank: int) -> Callable[[str, str], None]:
        def line(stream: str, text: str) -> None:
            self._send({"type": "output", "rank": rank, "stream": stream, "text": text})

        return line

    # Budgets

    def _next_budget(self, phase: str, seconds: float) -> None:
        self._phase, self._left, self._since = phase, seconds, time.monotonic()

    def _pause(self) -> None:
        if not self._waiting:
            self._left -= time.monotonic() - self._since

    def _resume(self) -> None:
        if not self._waiting:
            self._since = time.monotonic()

    @property
    def _waiting(self) -> bool:
        return any(m.waits_for for m in self._members)

    def _shorten(self, grace: float) -> None:
        """The test is decided: the others get a short grace."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + grace

    def timeout(self) -> float | None:
        """Seconds until `tick` has something to do; ``None`` while the clock stands."""
        if self._aborted:
            return None
        if self._kill_at is not None:
            return max(0.0, self._kill_at - time.monotonic())
        if self._waiting:
            return None
        return max(0.0, self._since + self._left - time.monotonic())

    def tick(self) -> None:
        """Acts on a budget or a grace that ran out."""
        if self.timeout() != 0.0 or self.ended:
            return
        if self._kill_at is None:
            self._hang = (self._phase, time.monotonic())
            self._take_stacks()
            self.abort(f"still running at the end of the {self._phase} budget")
        else:
            self.abort(f"killed {GRACE:g} s after the first failure")

    def dump(self) -> None:
        """Takes the stacks now, because the controller gave up waiting."""
        self._take_stacks()

    def _take_stacks(self) -> None:
        live = [m for m in self._members if m.exited_at is None]
        texts = stacks.request([(m.pid, m.stack) for m in live])
        for member, text in zip(live, texts, strict=True):
            member.trace = text

    def abort(self, why: str) -> None:
        """Kills every rank that is still there."""
        self._aborted = True
        for member in self._members:
            if member.exited_at is None:
                self._kill(member, why)

    def _kill(self, member: _Member, why: str) -> None:
        if member.exited_at is None and not _is_dead(member.pidfd):
            member.killed = member.killed or why
            containment.kill(member.pid)

    # The end

    def close(self) -> channel.Frame:
        """Reaps what ranks left, gives everything back, and tells what happened."""
        self._contain()
        frame: channel.Frame = {
            "type": "ended",
            "hang": self._hang[0] if self._hang else "",
            "hang_at": self._hang[1] if self._hang else 0.0,
            "leaks": self._leaks,
            "ranks": [self._describe(m) for m in self._members],
        }
        for member in self._members:
            for fd in (member.pidfd, member.replies, member.stack):
                os.close(fd)
            member.events.close()
            member.stdout.close()
            member.stderr.close()
            member.page.close()
        return frame

    def _contain(self) -> None:
        containment.kill(self._store)
        os.waitpid(self._store, 0)
        for pid, command in containment.kill_strays(self._keep):
            self._leaks.append(f"a process was left running and was killed: {command} (pid {pid})")
        for name, size in containment.unlink_new_shared_memory(self._shm):
            self._leaks.append(
                f"a shared-memory segment was left and was unlinked: /dev/shm/{name} ({size} bytes)"
            )

    def _describe(self, member: _Member) -> dict[str, Any]:
        return {
            "rank": member.rank,
            "pid": member.pid,
            "exited_at": member.exited_at,
            "status": member.status,
            "killed": member.killed,
            "stdout": member.stdout.text(),
            "stderr": member.stderr.text(),
            "stack": member.trace,
            "collectives": member.page.read(),
            "note": _why_killed(member),
        }


def _fork_store(server: socket.socket) -> int:
    """Starts the process that serves a world's store; returns its id."""
    agent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            containment.die_with_parent(agent)
            rendezvous.serve(server)
        finally:
            os._exit(1)
    return pid


def _ends_the_test(frame: channel.Frame) -> bool:
    """Whether this report decides the test: a failure, an expected one included."""
    report = frame["report"]
    return frame["outcome"] == "failed" or (frame["outcome"] == "skipped" and "wasxfail" in report)


def _is_dead(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _why_killed(member: _Member) -> str:
    """A hint where the kernel's counters know of a SIGKILL that nobody here sent."""
    if member.status != -signal.SIGKILL or member.killed:
        return ""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill" and int(count) > 0:
                    return f"the kernel's OOM killer has struck in this cgroup ({path}: {line})"
    return "nobody here sent it; the kernel's OOM killer is the usual sender (dmesg tells)"


def check_fork_is_safe() -> None:
    """A fork copies one thread and no CUDA context.

    Raises:
        RuntimeError: with what was found and what to do.
    """
    count = containment.threads()
    if count != 1:
        import threading

        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        known = f" ({', '.join(names)})" if names else " (started by native code)"
        raise RuntimeError(
            f"cannot fork ranks: {count - 1} thread(s) beside the main one{known} run in the agent."
            " A conftest or test module starts them when it is imported: start them in a fixture"
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError(
            "cannot fork ranks: importing a conftest or test module has initialised CUDA in the"
            " agent. Touch the GPU in a fixture or in the test, not at import"
        )
