"""The controller's side of an agent: start it, ask it to run a world, hear the ranks, stop it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_deepspeed.processes import channel, containment
from pytest_deepspeed.values import outcome
from pytest_deepspeed.values.errors import AgentError
from pytest_deepspeed.values.outcome import Phase, RankResult, WorldResult
from pytest_deepspeed.values.world import World

#: Importing torch and DeepSpeed takes 4 s on an idle machine and can take ten times that on one
#: that is busy or reads them from a network disk.
_START_BUDGET = 300.0

#: After an abort the agent kills and reaps; it needs milliseconds.
_ABORT_BUDGET = 15.0

#: Environment variable that all processes of one agent have.
_MARK = "_PYTEST_DS_AGENT"

Frame = channel.Frame


@dataclasses.dataclass(frozen=True)
class Listener:
    """What the controller does with news that is no result.

    Attributes:
        progress: a line on what is being waited for.
        output: ``rank``, stream name and one line of live output.
    """

    progress: Callable[[str], None]
    output: Callable[[int, str, str], None]


class AgentClient:
    """One agent process.

    Args:
        start: the ``start`` frame.
        sys_path: import path, the controller's own.
        listener: where news goes.
    """

    def __init__(self, start: Frame, sys_path: list[str], listener: Listener) -> None:
        self._listener = listener
        self._mark = uuid.uuid4().hex
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self._process = subprocess.Popen(
            _command(sys_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, _MARK: self._mark},
            # Ctrl-C is for the controller, which then tells the agent.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands = self._process.stdin.fileno()
        self._reader = channel.FrameReader(self._process.stdout.fileno())
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._up: Frame | None = None
        self._log_from = 0
        self._broken = ""
        with contextlib.suppress(AgentError):
            self._write({**start, "type": "start", "controller": os.getpid()})

    def _write(self, frame: Frame) -> None:
        try:
            channel.write(self._commands, frame)
        except OSError:
            raise AgentError(self._died()) from None

    def wait_up(self) -> Frame:
        """Waits until the agent has imported and collected; at once from the second call on.

        Returns:
            its ``up`` frame: ``pid``, ``torch`` (version), ``items`` (count).
        """
        if self._broken:
            raise AgentError(self._broken)
        try:
            return self._wait_up(time.monotonic() + _START_BUDGET)
        except AgentError as error:
            # A second try would fail as the first did, after as long a wait.
            self._broken = str(error)
            raise

    def _wait_up(self, deadline: float) -> Frame:
        while self._up is None:
            for frame in self._receive(deadline, "start"):
                match frame["type"]:
                    case "up":
                        self._up = frame
                        # What pytest printed while it collected says nothing about a later death.
                        self._log_from = os.fstat(self._log.fileno()).st_size
                    case "progress":
                        self._listener.progress(frame["text"])
                    case "broken":
                        self.kill()
                        raise AgentError(f"the agent could not start:\n{frame['text']}")
        return self._up

    def run(
        self, nodeid: str, world: World, basetemp: Path, call: dict[str, Any] | None = None
    ) -> WorldResult:
        """Runs a collected item, or a function in its place, on a fresh world.

        Raises:
            AgentError: the agent died or refused. Any other exception (Ctrl-C, a timeout of
                another plugin) aborts the world first.
        """
        self.wait_up()
        started = time.monotonic()
        self._write(
            {
                "type": "run",
                "nodeid": nodeid,
                "world": dataclasses.asdict(world),
                "basetemp": str(basetemp),
                "run_id": f"{os.getpid()}-{started:.6f}",
                "call": call,
            }
        )
        ranks = [RankResult(rank) for rank in range(world.world_size)]
        result = WorldResult(ranks, started_at=started, folder=basetemp)
        try:
            while not self._collect(result, world, deadline=None):
                pass
        except AgentError:
            raise
        except BaseException as error:
            self._abort(result, world, error)
            raise
        return result

    def _abort(self, result: WorldResult, world: World, error: BaseException) -> None:
        """Ends the world and attaches what its ranks were doing to the exception."""
        why = type(error).__name__
        try:
            self._write({"type": "abort", "why": f"interrupted by {why}", "stacks": True})
            deadline = time.monotonic() + _ABORT_BUDGET
            while not self._collect(result, world, deadline):
                pass
        except AgentError:
            self.kill()
        for rank in result.ranks:
            if rank.stack:
                text = f"rank {rank.rank} was in:\n{rank.stack}"
                # pytest shows a KeyboardInterrupt in one line.
                if isinstance(error, KeyboardInterrupt):
                    self._listener.progress(text)
                else:
                    error.add_note(text)

    def _collect(self, result: WorldResult, world: World, deadline: float | None) -> bool:
        """Takes what has come; whether the world has ended."""
        for frame in self._receive(deadline, "answer"):
            match frame["type"]:
                case "rank":
                    _hear(result, frame)
                case "output":
                    self._listener.output(frame["rank"], frame["stream"], frame["text"])
                case "progress":
                    self._listener.progress(frame["text"])
                case "spawning":
                    result.spawned = frame["why"]
                case "refused":
                    raise AgentError(frame["text"])
                case "ended":
                    _end(result, world, frame)
                    return True
        return False

    def _receive(self, deadline: float | None, what: str) -> list[Frame]:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._selector.select(wait):
            self.kill()
            raise AgentError(f"the agent did not {what} in time.{self._log_tail()}")
        try:
            frames = list(self._reader.read())
        except ValueError as error:
            self.kill()
            raise AgentError(f"the agent sent {error}.{self._log_tail()}") from None
        if self._reader.closed and not frames:
            raise AgentError(self._died())
        return frames

    def _died(self) -> str:
        status = self._process.wait(timeout=_ABORT_BUDGET)
        how = RankResult(0, status=status).ending
        if status == -signal.SIGKILL:
            how += f": {outcome.UNKNOWN_SIGKILL}"
        return f"the agent that forks the ranks {how}.{self._log_tail()}"

    def _log_tail(self, lines: int = 30) -> str:
        self._log.seek(self._log_from)
        text = self._log.read().decode(errors="replace").strip().splitlines()
        return "\nIts last output:\n" + "\n".join(text[-lines:]) if text else ""

    @property
    def usable(self) -> bool:
        """Whether it runs, or would only fail again: one that died at its start is not replaced."""
        return bool(self._broken) or self._alive

    @property
    def _alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the agent and whatever it runs; a second call does nothing."""
        if self._log.closed:
            return
        if self._alive:
            try:
                self._write({"type": "stop"})
                self._process.wait(timeout=_ABORT_BUDGET)
            except (AgentError, subprocess.TimeoutExpired):
                pass
        self.kill()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()

    def kill(self) -> None:
        """Ends the agent at once; its ranks die with it by their parent-death signal."""
        if self._alive:
            self._process.kill()
            self._process.wait()
        containment.kill_marked(f"{_MARK}={self._mark}")


def _command(sys_path: list[str]) -> list[str]:
    """``-c`` and not ``-m``: what ranks start by spawn imports ``__main__`` again."""
    code = (
        f"import sys; sys.path[:] = {sys_path!r};"
        " from pytest_deepspeed.processes.agent import main; main()"
    )
    return [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", code]  # type: ignore[attr-defined]


def _hear(result: WorldResult, frame: Frame) -> None:
    rank = result.ranks[frame["rank"]]
    match frame["event"]:
        case "ready":
            rank.ready_at = frame["at"]
        case "report":
            rank.phases.append(Phase(frame["when"], frame["outcome"], frame["at"], frame["report"]))
        case "warning":
            result.warnings.append(frame)
        case "value":
            result.values[rank.rank] = frame["value"]
        case "finished":
            rank.finished_at = frame["at"]


def _end(result: WorldResult, world: World, frame: Frame) -> None:
    result.ended_at = time.monotonic()
    result.hang = frame["hang"]
    result.hang_at = frame["hang_at"]
    result.budget = world.startup_budget if result.hang == "start-up" else world.body_budget
    result.leaks = frame["leaks"]
    for told in frame["ranks"]:
        rank = result.ranks[told.pop("rank")]
        for name, value in told.items():
            setattr(rank, name, value)
