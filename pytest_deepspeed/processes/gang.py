"""A world's ranks on one node: fork them, hear them, hold them to their budgets, clean up.

Runs inside the agent, which has one thread: everything here is a callback of its selector. Where
the world has ranks on other nodes, their agents are told what is news to them through the
controller: that all ranks here are ready, that the test is decided, that a budget ran out, that the
clock stands (`News`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from pytest_deepspeed.processes import channel, containment, gpu_contexts, spawn, stacks
from pytest_deepspeed.processes.builds import Builds
from pytest_deepspeed.processes.member import Member, Surroundings, Task, why_not_fork
from pytest_deepspeed.values.world import GRACE, LONGEST_GRACE

#: Writes one frame to the controller.
Send = Callable[[channel.Frame], None]

#: What one node's part of a world tells the others'.
NEWS = ("ready", "decided", "hang", "pause", "resume")

_LOOK_AGAIN = 0.2  # seconds
_OUT_OF_TIME = "still running at the end of a budget"


class Gang:
    """The ranks of one world, from fork to the last exit.

    Args:
        task: what each rank runs, and where they meet.
        around: what all worlds share.
        selector: the agent's; callbacks take no argument.
        send: writes a frame to the controller.
        builds: asked for an op that a rank needs.
    """

    def __init__(
        self,
        task: Task,
        around: Surroundings,
        selector: selectors.BaseSelector,
        send: Send,
        builds: Builds,
    ) -> None:
        self._task = task
        self._world = task.world
        self._around = around
        self._selector = selector
        self._send = send
        self._builds = builds
        self._members: list[Member] = []
        self.used_deepspeed = False  # whether a rank has imported it
        self.used_ops: set[str] = set()  # those that a rank has loaded
        self._shm: dict[str, int] = {}
        self._keep: set[int] = set()
        self._phase = "start-up"
        self._left = task.world.startup_budget
        self._since = 0.0
        self._hang: tuple[str, float] | None = None
        self._kill_at: float | None = None
        self._latest = 0.0
        self._ran: dict[int, int] = {}
        self._why = ""
        self._pauses = 0
        self._aborted = False
        self._leaks: list[str] = []

    @property
    def alone(self) -> bool:
        """Whether the world has no ranks on other nodes."""
        return self._task.place.num_nodes == 1

    @property
    def ended(self) -> bool:
        """Whether every rank is gone."""
        return all(m.exited_at is not None for m in self._members)

    def start(self) -> None:
        """Starts the ranks: by fork, and by spawn where the agent must not be forked.

        Raises:
            OSError: one could not be started; none runs then. See `not_started`.
        """
        why_not = why_not_fork()
        if why_not:
            self._send({"type": "spawning", "why": why_not})
            self._left += spawn.ALLOWANCE
        self._shm = containment.shared_memory()
        self._keep = set(containment.children())
        self._since = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            for rank in self._task.place.ranks:
                self._members.append(
                    Member.start(rank, self._task, self._around, self._members, fork=not why_not)
                )
        except OSError:
            self._undo()
            raise
        for member in self._members:
            self._selector.register(member.events, selectors.EVENT_READ, self._on_events(member))
            self._selector.register(member.pidfd, selectors.EVENT_READ, self._on_exit(member))
            for output in (member.stdout, member.stderr):
                output.watch(self._selector, self._forward(member.rank))

    def _undo(self) -> None:
        for member in self._members:
            containment.kill(member.pid)
            os.waitpid(member.pid, 0)
            member.close()
        self._contain()

    # What ranks say

    def _on_events(self, member: Member) -> Callable[[], None]:
        def handle() -> None:
            try:
                for frame in member.events.read():
                    self._hear(member, frame)
            except ValueError as error:
                # It is the culprit, and not killed for another's failure.
                member.blame = f"its agent ended it, since it sent what is {error}"
                containment.kill(member.pid)
            if member.events.closed:
                self._selector.unregister(member.events)

        return handle

    def _hear(self, member: Member, frame: channel.Frame) -> None:
        kind = frame["type"]
        if kind == "op":
            self._wait_for_op(member, str(frame["name"]))
            return
        self._send({**frame, "rank": member.rank, "event": kind, "type": "rank"})
        if kind == "ready":
            member.ready = True
            if all(m.ready for m in self._members):
                self._tell("ready")
                if self.alone:
                    self.hear_of("ready")
        elif kind == "finished":
            member.finished = True
            self.used_deepspeed |= frame.get("deepspeed", False)
            self.used_ops.update(frame.get("ops", ()))
        elif kind == "report" and _ends_the_test(frame):
            self._shorten()

    def _wait_for_op(self, member: Member, name: str) -> None:
        """A rank needs an op: build it outside, with the clock stopped."""
        self._tell("pause")
        self.hear_of("pause")

        def done(path: str, error: str) -> None:
            with contextlib.suppress(OSError):
                channel.write(member.replies, {"type": "built", "path": path, "error": error})
            self._tell("resume")
            self.hear_of("resume")

        self._builds.request(name, done)

    def _on_exit(self, member: Member) -> Callable[[], None]:
        def handle() -> None:
            member.exited_at = time.monotonic()
            self._selector.unregister(member.pidfd)
            _, status = os.waitpid(member.pid, 0)
            member.status = os.waitstatus_to_exitcode(status)
            if member.status < 0 and not member.killed:
                member.trace = stacks.of_crash(member.stack)
            if not member.events.closed:
                # First, since draining it may find its end and close it.
                self._selector.unregister(member.events)
                with contextlib.suppress(ValueError):
                    for frame in member.events.drain():
                        self._hear(member, frame)
            if not member.killed and (not member.finished or member.status != 0):
                self._shorten()

        return handle

    def _forward(self, rank: int) -> Callable[[str, str], None]:
        def line(stream: str, text: str) -> None:
            self._send({"type": "output", "rank": rank, "stream": stream, "text": text})

        return line

    # News, of this node and of the others

    def _tell(self, news: str) -> None:
        if not self.alone:
            self._send({"type": "news", "news": news, "run_id": self._task.order["run_id"]})

    def hear_of(self, news: str) -> None:
        """Acts on what has happened here, or on another node: one of `NEWS`.

        Ranks are ``ready`` when those of all nodes are: the controller counts them.
        """
        match news:
            case "ready":
                self._next_budget("body", self._world.body_budget)
            case "decided":
                self._decided()
            case "hang":
                # Before any node kills its ranks: what the others do then is no part of the hang.
                if self._why != _OUT_OF_TIME:
                    self._take_stacks()
                    self._why = _OUT_OF_TIME
                self._decided()
            case "pause":
                if not self._pauses:
                    self._left -= time.monotonic() - self._since
                self._pauses += 1
            case "resume":
                self._pauses -= 1
                if not self._pauses:
                    self._since = time.monotonic()

    # Budgets

    def _next_budget(self, phase: str, seconds: float) -> None:
        self._phase, self._left, self._since = phase, seconds, time.monotonic()

    def _shorten(self) -> None:
        if self._kill_at is None:
            self._tell("decided")
            self._decided()

    def _decided(self) -> None:
        """The test is decided: the others get a short grace."""
        if self._kill_at is None:
            # The first look is what the second, at the end of the grace, is compared to.
            self._kill_at = time.monotonic() + GRACE - _LOOK_AGAIN
            self._latest = time.monotonic() + LONGEST_GRACE

    def _end_grace(self) -> None:
        """Kills those that only wait; looks again at those that compute."""
        left = self._latest - time.monotonic()
        if not self._why and left > 0 and (self._computes() or left > LONGEST_GRACE - GRACE):
            self._kill_at = time.monotonic() + min(left, _LOOK_AGAIN)
            return
        self.abort(self._why or f"killed {LONGEST_GRACE - left:.0f} s after the first failure")

    def _computes(self) -> bool:
        """Whether a rank that is still there has run since the last look, or would with a core."""
        live = [m.pid for m in self._members if m.exited_at is None]
        before, self._ran = self._ran, {pid: containment.cpu_ticks(pid) for pid in live}
        runs = any(containment.state_of(pid).startswith(("R", "D")) for pid in live)
        return runs or any(self._ran[pid] > before.get(pid, self._ran[pid]) for pid in live)

    def timeout(self) -> float | None:
        """Seconds until `tick` has something to do; ``None`` while the clock stands."""
        if self._aborted:
            return None
        if self._kill_at is not None:
            return max(0.0, self._kill_at - time.monotonic())
        if self._pauses:
            return None
        return max(0.0, self._since + self._left - time.monotonic())

    def tick(self) -> None:
        """Acts on a budget or a grace that ran out."""
        if self.timeout() != 0.0 or self.ended:
            return
        if self._kill_at is not None:
            self._end_grace()
            return
        self._hang = (self._phase, time.monotonic())
        self._tell("hang")
        self.hear_of("hang")
        if self.alone:
            self.abort(self._why)

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

    def _kill(self, member: Member, why: str) -> None:
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
            "ranks": [member.describe() for member in self._members],
        }
        for member in self._members:
            member.close()
        return frame

    def _opened(self, segment: str) -> bool:
        port = str(self._task.address[1])  # in the names of DeepSpeed's own segments
        # NCCL's have no name of anybody. What a process of another world uses is left alone.
        if self._world.device == "cuda" and segment.startswith("nccl-"):
            return True
        return f"_{port}" in segment or any(m.opened(segment) for m in self._members)

    def _contain(self) -> None:
        held: dict[int, str] = {}

        def look(pids: list[int]) -> None:
            held.update(gpu_contexts.held(pids))

        strays = containment.kill_strays(self._keep | self._builds.pids, look)
        self._leaks += left_running(strays, held)
        if self._world.device == "cuda":
            killed = [member.pid for member in self._members if member.killed]
            self._leaks += gpu_contexts.still_held(killed)
        for name, size in containment.unlink_left_shared_memory(self._shm, self._opened):
            self._leaks.append(
                f"a shared-memory segment was left and was unlinked: /dev/shm/{name} ({size} bytes)"
            )


def not_started(error: OSError) -> str:
    """What the user is told where a rank could not be started."""
    hint = {
        errno.EAGAIN: ": no more processes are allowed (ulimit -u, or pids.max of the cgroup)",
        errno.ENOMEM: ": there is no memory for another process",
        errno.EMFILE: f": ulimit -n is {os.sysconf('SC_OPEN_MAX')}, and each rank takes a dozen",
        errno.EADDRNOTAVAIL: ": the loopback has no address (ip addr show lo)",
    }.get(error.errno or 0, "")
    return f"the ranks could not be started: {error.strerror}{hint}"


def left_running(strays: Sequence[tuple[int, str]], held: Mapping[int, str]) -> list[str]:
    """What is told of processes that a test left: many of one command in one sentence.

    Args:
        strays: process ids and commands.
        held: what each held of a GPU, by process id.
    """
    alike: dict[tuple[str, str], list[int]] = {}
    for pid, command in strays:
        with_it = f", with {held[pid]}" if pid in held else ""
        alike.setdefault((command, with_it), []).append(pid)
    told = []
    for (command, with_it), pids in alike.items():
        what = "a process was left running and was killed"
        who = f"pid {pids[0]}"
        if len(pids) > 1:
            what = f"{len(pids)} processes were left running and were killed"
            who = f"pids {', '.join(map(str, pids[:3]))}{' and others' if len(pids) > 3 else ''}"
        told.append(f"{what}: {command} ({who}){with_it}")
    return told


def _ends_the_test(frame: channel.Frame) -> bool:
    """Whether this report decides the test: a failure, an expected one included."""
    report = frame["report"]
    return frame["outcome"] == "failed" or (frame["outcome"] == "skipped" and "wasxfail" in report)


def _is_dead(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])
