"""The agents of a session, one for each node: start them side by side, run worlds on them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_deepspeed.processes import channel, devices, roll_call
from pytest_deepspeed.processes.client import END_BUDGET, AgentClient
from pytest_deepspeed.processes.dialing import Exchange
from pytest_deepspeed.processes.launch import Launch
from pytest_deepspeed.processes.rendezvous import LOOPBACK
from pytest_deepspeed.processes.world_run import Order, WorldRun
from pytest_deepspeed.values.errors import (
    AgentError,
    GpusLackingError,
    NodesLostError,
    SessionEndingError,
)
from pytest_deepspeed.values.outcome import WorldResult
from pytest_deepspeed.values.world import World

#: Importing torch and DeepSpeed takes 4 s on an idle machine and can take ten times that on one
#: that is busy or reads them from a network disk.
_START_BUDGET = 300.0

#: Of a question of the roll call: trying the addresses of a node takes 3 s for each that is silent.
_ANSWER_BUDGET = 60.0

Frame = channel.Frame


@dataclasses.dataclass(frozen=True)
class Listener:
    """What the controller does with news that is no result.

    Attributes:
        progress: a line on what is being waited for.
        output: ``rank``, its node (empty where there is one), stream name and one line of live
            output.
        waiting: called before each wait; after how many seconds to call it again.
    """

    progress: Callable[[str], None]
    output: Callable[[int, str, str, str], None]
    waiting: Callable[[], float] | None = None


class Agents:
    """All agents of a session.

    Args:
        launches: how each is started.
        start: the ``start`` frame.
        sys_path: import path, the controller's own.
        listener: where news goes.
        shared: directory of the session's temporary files, which all nodes must see.
    """

    def __init__(
        self,
        launches: Sequence[Launch],
        start: Frame,
        sys_path: list[str],
        listener: Listener,
        shared: Path,
    ) -> None:
        self._launches = launches
        self._sys_path = sys_path
        self._listener = listener
        self._shared = shared
        self._selector = selectors.DefaultSelector()
        self._exchange: Exchange | None = None
        self._start = start
        self._ending, self._end = os.pipe()
        self._selector.register(self._ending, selectors.EVENT_READ)
        self._why_ending = ""
        self._network: roll_call.Network | None = None
        self._broken = ""
        self._losses = 0
        self._clients = [self._begin(launch) for launch in launches]

    def _begin(self, launch: Launch) -> AgentClient:
        client = AgentClient(launch, self._start, self._sys_path)
        self._selector.register(client.readers[0], selectors.EVENT_READ, client)
        return client

    @property
    def ending(self) -> bool:
        """Whether `end` was called."""
        return bool(self._why_ending)

    @property
    def nodes(self) -> list[str]:
        """Their names."""
        return [client.node for client in self._clients]

    # Up

    def wait_up(self) -> None:
        """Waits until all serve, and those that were lost have been replaced; then at once.

        Raises:
            AgentError: one could not start, or the nodes are not alike.
            SessionEndingError: see `end`.
        """
        if self._broken:
            raise AgentError(self._broken)
        self._replace_lost()
        if self._network is not None:
            return
        try:
            try:
                self._wait_up(time.monotonic() + _START_BUDGET)
            finally:
                self._hang_up()
            if len(self._clients) == 1 and not self._clients[0].remote:
                self._network = roll_call.Network(LOOPBACK, ("",))
            else:
                self._network = roll_call.call(
                    self._clients, self._ask, self._shared, self._start["device"]
                )
        except AgentError as error:
            self._kill_all()
            if self._why_ending:  # which takes the agents away as well, and often before
                self._broken = self._why_ending
                raise SessionEndingError(self._why_ending) from None
            if self._losses and len(self._clients) > 1:
                raise NodesLostError(str(error)) from None
            # A second try would fail as the first did, after as long a wait.
            self._broken = str(error)
            raise

    def _wait_up(self, deadline: float) -> None:
        while waiting := [c for c in self._clients if c.up is None or c.dials]:
            for client, frame in self._receive(deadline, "start", waiting):
                match frame["type"]:
                    case "up":
                        client.is_up(frame)
                        self._ask_to_dial(client)
                    case "progress":
                        self._listener.progress(frame["text"])
                    case "not dialled":
                        client.dials = False
                        self._listener.progress(
                            f"{client.name} cannot connect to this process ({frame['why']}): its"
                            " messages go through srun, which takes 0.04 s for each long one"
                        )
                    case "broken":
                        raise AgentError(f"{client.name} could not start:\n{frame['text']}")
                    case "lost":
                        raise AgentError(frame["text"])

    def _ask_to_dial(self, client: AgentClient) -> None:
        """Now, since nobody takes a call while the tests of this process run."""
        if not client.remote:
            return
        if self._exchange is None:
            self._exchange = Exchange()
            self._selector.register(self._exchange.listener, selectors.EVENT_READ)
        client.write({"type": "dial", **self._exchange.invitation})
        client.dials = True

    def _hang_up(self) -> None:
        """Nobody listens any more when all are there."""
        if self._exchange is not None:
            self._selector.unregister(self._exchange.listener)
            self._exchange.close()
            self._exchange = None

    def _replace_lost(self) -> None:
        for i, client in enumerate(self._clients):
            if client.alive and not client.ending:
                continue
            self._forget(client)
            client.stop()
            self._clients[i] = self._begin(self._launches[i])
            self._network = None
            self._losses += 1

    def _forget(self, client: AgentClient) -> None:
        for reader in client.readers:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(reader)

    def _ask(self, frames: Mapping[AgentClient, Frame]) -> dict[AgentClient, Frame]:
        """Asks some agents at once, and waits for all answers."""
        for client, frame in frames.items():
            client.write(frame)
        answers: dict[AgentClient, Frame] = {}
        deadline = time.monotonic() + _ANSWER_BUDGET
        while waiting := [client for client in frames if client not in answers]:
            for client, answer in self._receive(deadline, "answer", waiting):
                if answer["type"] == "lost":
                    raise AgentError(answer["text"])
                if answer["type"] == "answer":
                    answers[client] = answer
        return answers

    # Running

    def run(self, order: Order, nodes: int | None = None) -> WorldResult:
        """Runs a collected item, or a function in its place, on a fresh world.

        Args:
            order: what to run.
            nodes: how many nodes it may be spread over; all if ``None``.

        Raises:
            AgentError: an agent refused, or the only one died.
            GpusLackingError: NCCL would have to put two ranks on one GPU.
            SessionEndingError: see `end`. Any other exception (Ctrl-C, a timeout of another
                plugin) aborts the world first.
        """
        asked_at = time.monotonic()
        remote = any(launch.remote for launch in self._launches)
        if not remote:  # this machine's GPUs: no need to wait for an agent
            self._need_gpus(order.world, [devices.granted_gpus()] * len(self._clients), nodes)
        self.wait_up()
        if remote:
            gpus = [client.up["gpus"] for client in self._clients if client.up is not None]
            self._need_gpus(order.world, gpus, nodes)
        assert self._network is not None
        run = WorldRun(order, self._clients[:nodes], self._network)
        run.result.waited = run.result.started_at - asked_at
        try:
            run.begin()
            while not run.ended:
                self._hear(run)
        except AgentError as error:
            if not run.ended:
                self._abort(run, error)
            raise
        except BaseException as error:
            self._abort(run, error)
            raise
        return run.result

    def _need_gpus(self, world: World, gpus: list[int], nodes: int | None) -> None:
        if world.backend != "nccl" or not world.init_process_group:
            return  # a group that the test forms itself may be another
        one = not any(launch.remote for launch in self._launches)
        text = devices.too_few_gpus(world.world_size, self.nodes[:nodes], gpus[:nodes], one)
        if text:
            raise GpusLackingError(text)

    def _hear(self, run: WorldRun, deadline: float = float("inf")) -> None:
        # An agent that runs a world gives a sign of life every few seconds.
        silent = sorted(run.pending, key=lambda client: client.silent_until)
        deadline = min(deadline, silent[0].silent_until)
        for client, frame in self._receive(deadline, "answer", silent):
            match frame["type"]:
                case "output":
                    self._listener.output(
                        frame["rank"], client.node, frame["stream"], frame["text"]
                    )
                case "progress":
                    self._listener.progress(frame["text"])
                case "terminated":
                    self._terminated(client)
                case _:
                    run.hear(client, frame)

    def _terminated(self, client: AgentClient) -> None:
        if client.remote:
            client.ending = (
                f"Slurm ended the step on {client.node} (scancel, the job's time limit or"
                " preemption)"
            )

    def _abort(self, run: WorldRun, error: BaseException) -> None:
        """Ends the world and attaches what its ranks were doing to the exception."""
        run.abort(f"interrupted by {type(error).__name__}", stacks=True)
        deadline = time.monotonic() + END_BUDGET
        try:
            while not run.ended:
                self._hear(run, deadline)
        except AgentError:
            self._kill_all()
        for rank in run.result.ranks:
            if rank.stack:
                text = f"{rank.name} was in:\n{rank.stack}"
                # pytest shows a KeyboardInterrupt in one line.
                if isinstance(error, KeyboardInterrupt):
                    self._listener.progress(text)
                elif not isinstance(error, AgentError):
                    error.add_note(text)

    def _receive(
        self, deadline: float | None, what: str, waiting: Sequence[AgentClient]
    ) -> list[tuple[AgentClient, Frame]]:
        """Frames that have come, with who sent them; waits for some.

        At the deadline the first of those that are waited for is lost.
        """
        ready = self._select(deadline)
        if not ready:
            late = waiting[0]
            self._forget(late)
            return [(late, {"type": "lost", "text": late.give_up(what)})]
        found: list[tuple[AgentClient, Frame]] = []
        for key, _ in ready:
            if key.fd == self._ending:
                os.read(self._ending, 16)
                raise SessionEndingError(self._why_ending)
            if key.data is None:
                self._answer_call()
            else:
                found += [(key.data, frame) for frame in self._read(key.data, key.fileobj)]
        return found

    def _select(self, deadline: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; empty at the deadline."""
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._listener.waiting is None:
                return self._selector.select(left)
            tick = self._listener.waiting()
            ready = self._selector.select(tick if left is None else min(left, tick))
            if ready or left == 0.0:
                return ready

    def _read(self, client: AgentClient, reader: Any) -> list[Frame]:
        frames = client.read(reader)
        if frames and frames[-1]["type"] == "lost":
            self._forget(client)
        return frames

    def _answer_call(self) -> None:
        assert self._exchange is not None
        caller = self._exchange.accept()
        if caller is None:
            return
        fd = caller.detach()
        reader = channel.FrameReader(os.dup(fd))
        while not reader.closed:
            for frame in reader.read():
                client = self._clients[frame["node_rank"]]
                client.connected(fd, reader)
                self._selector.register(reader, selectors.EVENT_READ, client)
                return

    def remove(self, path: Path) -> None:
        """Removes a directory on all nodes but this one; what is not there is passed over."""
        for client, launch in zip(self._clients, self._launches, strict=True):
            if launch.remote and client.alive:
                with contextlib.suppress(AgentError):
                    client.write({"type": "remove", "path": str(path)})

    # The end

    def _kill_all(self) -> None:
        for client in self._clients:
            client.cancel()  # srun takes seconds for it where a node is gone: side by side
        for client in self._clients:
            client.kill()

    def end(self, why: str) -> None:
        """Lets what waits for agents raise `SessionEndingError`; safe in a signal handler."""
        self._why_ending = why
        os.write(self._end, b"!")

    def stop(self) -> None:
        """Ends all agents and what they run; a second call does nothing."""
        for client in self._clients:
            client.ask_to_stop()
        for client in self._clients:
            self._forget(client)
            client.stop()
        if self._end >= 0:
            os.close(self._ending)
            os.close(self._end)
            self._selector.close()
            self._end = -1
