"""The controller's side of one agent: start it, write to it, read from it, end it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import uuid
from typing import Any

from pytest_deepspeed.processes import channel, containment
from pytest_deepspeed.processes.launch import Launch, agent_command
from pytest_deepspeed.values import outcome
from pytest_deepspeed.values.errors import AgentError
from pytest_deepspeed.values.outcome import RankResult

#: Seconds that an agent has to end; it kills and reaps its ranks in milliseconds.
END_BUDGET = 15.0

#: Seconds that srun has to say why an agent on another node is gone.
_LAST_WORDS = 3.0

#: Seconds without a word from an agent that runs a world, after which it is given up: it says every
#: `agent.HEARTBEAT` that it lives, and how long it will not where it imports for minutes.
SILENCE = 90.0

#: Environment variable that all processes of one agent have.
_MARK = "_PYTEST_DS_AGENT"


class AgentClient:
    """One agent.

    Args:
        launch: how it is started.
        start: the ``start`` frame.
        sys_path: import path, the controller's own.

    Attributes:
        node: the name of its node, empty where there is one agent.
        remote: whether it runs on another machine, or may.
        up: its ``up`` frame, once it serves.
        dials: whether it has been asked to dial back, and has not said how that went.
        ahead: seconds by which its `time.monotonic` is ahead of the controller's.
        ending: why its node is about to be taken away, or empty.
        lost_at: `time.monotonic` when it was seen to be gone.
    """

    def __init__(self, launch: Launch, start: channel.Frame, sys_path: list[str]) -> None:
        self._launch = launch
        self.node = launch.node
        self.remote = launch.remote
        self.up: channel.Frame | None = None
        self.dials = False
        self.ahead = 0.0
        self.ending = ""
        self._cancelled = False
        self._lost = ""
        self.lost_at = 0.0
        self._mark = uuid.uuid4().hex
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self._log_from = 0
        # When a frame last went out or came in, and how long the next may take.
        self._last_frame_at, self._patience = time.monotonic(), SILENCE
        self._process = subprocess.Popen(
            launch.command(agent_command(sys_path)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**launch.environment, _MARK: self._mark},
            # Ctrl-C is for the controller, which then tells the agent.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands = self._process.stdin.fileno()
        self.readers = [channel.FrameReader(self._process.stdout.fileno(), prologue=launch.remote)]
        first = {**start, "type": "start", "node_rank": launch.node_rank}
        with contextlib.suppress(AgentError):
            self.write({**first, "parent": None if launch.remote else os.getpid()})

    @property
    def name(self) -> str:
        """Who it is, for a message."""
        return f"the agent on {self.node}" if self.node else "the agent"

    def connected(self, fd: int, reader: channel.FrameReader) -> None:
        """It has dialled back: frames go over the socket from now on."""
        self._commands = fd
        self.readers.append(reader)
        self.dials = False

    def write(self, frame: channel.Frame) -> None:
        """Writes a frame.

        Raises:
            AgentError: it is gone.
        """
        self._last_frame_at = time.monotonic()
        try:
            channel.write(self._commands, frame)
        except OSError:
            raise AgentError(self.lost) from None

    def read(self, reader: channel.FrameReader) -> list[channel.Frame]:
        """Frames that have come; the last of them is ``lost`` where no more will come."""
        try:
            frames = list(reader.read())
        except ValueError as error:
            self.lost_at = time.monotonic()
            self._lost = f"{self.name} sent {error}.{self._log_tail()}"
            self.kill()  # and its ranks: nobody knows what it does now
            frames = [{"type": "lost", "text": self._lost}]
        self._last_frame_at = time.monotonic()
        for frame in frames:
            self._patience = frame.get("patience", SILENCE)
        if reader.closed and not frames:
            frames = [{"type": "lost", "text": self.lost}]
        return frames

    @property
    def silent_until(self) -> float:
        """Until when it may say nothing while it runs a world; see `SILENCE`."""
        return self._last_frame_at + self._patience

    def is_up(self, frame: channel.Frame) -> None:
        """It has imported and collected, and serves."""
        self.up = frame
        # What pytest printed while it collected says nothing about a later death.
        self._log_from = os.fstat(self._log.fileno()).st_size

    @property
    def lost(self) -> str:
        """How it ended, in words; asked for when it is gone."""
        if not self._lost:
            self.lost_at = time.monotonic()
            self._lost = self._how_it_ended() + self._log_tail()
        return self._lost

    def _how_it_ended(self) -> str:
        who = f"{self.name} that forks the ranks" if not self.node else f"node {self.node}"
        try:
            status = self._process.wait(timeout=_LAST_WORDS if self.node else END_BUDGET)
        except subprocess.TimeoutExpired:
            return f"{who} was lost: the connection to its agent has ended."
        lost = "was lost" if self.up is not None else "cannot be used"
        if why := self.ending or self._launch.explain(self._words(), status):
            return f"{who} {lost}: {why}."
        how = RankResult(0, status=status).ending
        if status == -signal.SIGKILL:
            how += f": {outcome.UNKNOWN_SIGKILL}"
        if self.node:
            return f"{who} {lost}: {'srun' if self.remote else 'its agent'} {how}."
        return f"{who} {how}."

    def _words(self) -> str:
        self._log.seek(self._log_from)
        return self._log.read().decode(errors="replace").strip()

    def _log_tail(self, lines: int = 30) -> str:
        text = self._words().splitlines()
        return "\nIts last output:\n" + "\n".join(text[-lines:]) if text else ""

    def give_up(self, what: str) -> str:
        """Ends it, since it has not done something in time; that, in words."""
        silent = time.monotonic() - self._last_frame_at
        state = containment.state_of(self._process.pid)
        self.kill()
        self.lost_at = time.monotonic()
        stopped = ", stopped by a signal" if state.startswith("T") and not self.remote else ""
        self._lost = (
            f"{self.name} did not {what} in time: nothing was heard of it for {silent:.0f} s"
            f"{stopped}, and it was killed.{self._log_tail()}"
        )
        return self._lost

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._lost and self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Lets it end by itself."""
        if self.alive:
            with contextlib.suppress(AgentError):
                self.write({"type": "stop"})

    def stop(self) -> None:
        """Ends it and whatever it runs; a second call does nothing."""
        if self._log.closed:
            return
        if self.alive:
            self.ask_to_stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=END_BUDGET)
        self.kill()
        for reader in self.readers:
            if reader.fd != self._fileno(self._process.stdout):
                reader.close()
        if self._commands != self._fileno(self._process.stdin):
            os.close(self._commands)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._log.close()

    @staticmethod
    def _fileno(pipe: Any) -> int:
        return int(pipe.fileno())

    def cancel(self) -> None:
        """Lets srun cancel its step, which a SIGKILL of srun would leave behind."""
        if self._process.poll() is None and self.remote and not self._cancelled:
            self._cancelled = True
            self._process.terminate()

    def kill(self) -> None:
        """Ends it at once; its ranks die with it by their parent-death signal."""
        if self._process.poll() is None and self.remote:
            self.cancel()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=END_BUDGET)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        containment.kill_marked(f"{_MARK}={self._mark}")
