"""One rank as its agent sees it: its pipes and files, its process, and what is known at its end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.processes import channel, collectives, containment, gpu, spawn
from pytest_deepspeed.processes.output import Output
from pytest_deepspeed.processes.rank import RankJob, become_rank
from pytest_deepspeed.values.outcome import UNKNOWN_SIGKILL
from pytest_deepspeed.values.world import Place, World


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What all worlds of an agent share.

    Attributes:
        threads: OpenMP threads of a rank.
        live: whether output goes to the terminal as it comes.
        coverage: keyword arguments of `coverage.Coverage`, or ``None``.
        setup: the agent's own ``start`` frame, by which a spawned rank sets itself up.
        private: descriptors of the agent that no rank may hold open.
    """

    threads: int
    live: bool
    coverage: dict[str, Any] | None
    setup: channel.Frame
    private: list[int]


@dataclasses.dataclass(frozen=True)
class Task:
    """What each rank of a world runs.

    Attributes:
        world: the world's shape and budgets.
        place: where this node's ranks stand in it.
        item: the collected item, or the one that stands for a function.
        order: the ``run`` frame it came with, by which a spawned rank finds the item again; its
            ``interface`` leads to the other nodes.
        address: host and port of the rendezvous.
    """

    world: World
    place: Place
    item: pytest.Item
    order: channel.Frame
    address: tuple[str, int]


@dataclasses.dataclass
class Member:
    """A rank's process, and the agent's ends of what connects them."""

    rank: int
    pid: int
    pidfd: int
    events: channel.FrameReader
    replies: int
    stdout: Output
    stderr: Output
    stack: int
    segments: int
    page: collectives.Page
    ready: bool = False
    finished: bool = False
    exited_at: float | None = None
    status: int | None = None
    killed: str = ""
    blame: str = ""
    trace: str = ""

    @classmethod
    def start(
        cls, rank: int, task: Task, around: Surroundings, peers: list[Member], fork: bool
    ) -> Member:
        """Starts a rank's process.

        Args:
            rank: its global rank.
            task: what it runs.
            around: what all worlds share.
            peers: those of its world that were started before it.
            fork: whether this process may be forked; otherwise the rank is spawned.

        Raises:
            OSError: there can be no more processes, or descriptors.
        """
        # All of it is given back where there can be no process.
        with contextlib.ExitStack() as opened:

            def keep(*fds: int) -> tuple[int, ...]:
                for fd in fds:
                    opened.callback(os.close, fd)
                return fds

            events_read, events_write = keep(*os.pipe())
            replies_read, replies_write = keep(*os.pipe())
            stdout = opened.enter_context(contextlib.closing(Output.make("stdout", around.live)))
            stderr = opened.enter_context(contextlib.closing(Output.make("stderr", around.live)))
            (stack,) = keep(os.memfd_create(f"stack-{rank}"))
            (segments,) = keep(os.memfd_create(f"segments-{rank}"))
            page = opened.enter_context(contextlib.closing(collectives.Page()))
            job = RankJob(
                rank=rank,
                world=task.world,
                place=task.place,
                interface=task.order["interface"],
                events=events_write,
                replies=replies_read,
                stdout=stdout.write_fd,
                stderr=stderr.write_fd,
                stack=stack,
                segments=segments,
                page=page.fd,
                addr=task.address[0],
                port=task.address[1],
                run_id=task.order["run_id"],
                basetemp=task.order["basetemp"],
                agent=os.getpid(),
                threads=around.threads,
                coverage=around.coverage,
                progress=task.order["progress"],
                fixture=task.order["fixture"],
                gpus=task.order["gpus"],
            )
            if fork:
                peers_fds = (fd for p in peers for fd in p.fds)
                agents_ends = [events_read, replies_write, *peers_fds, *around.private]
                pid = _fork(job, task.item, agents_ends)
            else:
                pid = spawn.start(job, around.setup, task.order)
            (pidfd,) = keep(os.pidfd_open(pid))
            opened.pop_all()
        for fd in (events_write, replies_read):
            os.close(fd)
        for output in (stdout, stderr):
            output.forked()
        return cls(
            rank=rank,
            pid=pid,
            pidfd=pidfd,
            events=channel.FrameReader(events_read),
            replies=replies_write,
            stdout=stdout,
            stderr=stderr,
            stack=stack,
            segments=segments,
            page=page,
        )

    @property
    def fds(self) -> list[int]:
        """The agent's descriptors of this rank, which no peer may hold open."""
        own = [self.pidfd, self.events.fd, self.replies, self.stack, self.segments, self.page.fd]
        return own + [fd for o in (self.stdout, self.stderr) for fd in o.fds]

    def opened(self, segment: str) -> bool:
        """Whether it opened a segment of that name, as far as it was seen or its name tells."""
        seen = os.pread(self.segments, os.fstat(self.segments).st_size, 0).decode()
        return segment in seen.splitlines() or str(self.pid) in re.split(r"\D+", segment)

    def close(self) -> None:
        """Gives everything back; the process has ended."""
        for fd in (self.pidfd, self.replies, self.stack, self.segments):
            os.close(fd)
        self.events.close()
        self.stdout.close()
        self.stderr.close()
        self.page.close()

    def describe(self) -> dict[str, Any]:
        """What the controller is told of it; fields of `values.outcome.RankResult`."""
        return {
            "rank": self.rank,
            "pid": self.pid,
            "exited_at": self.exited_at,
            "status": self.status,
            "killed": self.killed,
            "stdout": self.stdout.text(),
            "stderr": self.stderr.text(),
            "stack": self.trace,
            "collectives": self.page.read(),
            "note": self.blame or self._note(),
        }

    def _note(self) -> str:
        """A hint where the kernel's counters know of a SIGKILL that nobody here sent."""
        if self.status != -signal.SIGKILL or self.killed:
            return ""
        for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
            with contextlib.suppress(OSError):
                for line in Path(path).read_text().splitlines():
                    name, _, count = line.partition(" ")
                    if name == "oom_kill" and int(count) > 0:
                        return f"the kernel's OOM killer has struck in this cgroup ({path}: {line})"
        return UNKNOWN_SIGKILL


def _fork(job: RankJob, item: pytest.Item, agents_ends: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        for fd in agents_ends:
            os.close(fd)
        become_rank(job, item)
    return pid


def why_not_fork() -> str:
    """Why ranks cannot be forked from this process; empty where they can.

    A fork copies one thread and no CUDA context: what other threads hold stays locked, and a
    context that was copied is broken.
    """
    count = containment.threads()
    if count != 1:
        import threading

        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        known = ", ".join(names) or "started by native code"
        what = "a thread" if count == 2 else f"{count - 1} threads"
        return f"importing a conftest or test module has started {what} ({known})"
    return gpu.touched()
