"""One world on the agents that it is spread over: begin it, hear it, and say when it has ended."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_deepspeed.processes import channel
from pytest_deepspeed.processes.client import AgentClient
from pytest_deepspeed.processes.rendezvous import LOOPBACK
from pytest_deepspeed.processes.roll_call import Network
from pytest_deepspeed.values.errors import AgentError
from pytest_deepspeed.values.outcome import Phase, RankResult, WorldResult
from pytest_deepspeed.values.world import Place, World, spread


@dataclasses.dataclass(frozen=True)
class Order:
    """What a world is to run.

    Attributes:
        nodeid: a collected item.
        basetemp: temporary directory that all ranks share.
        call: a function in the item's place, or ``None``.
        progress: arguments of `progress.tell_in` for rank 0; ``None`` where nobody looks.
        fixture: name of a distributed fixture that runs in the item's place, or empty.
        gpus: what ``CUDA_VISIBLE_DEVICES`` is for its ranks; as it is for this process if empty.
    """

    nodeid: str
    world: World
    basetemp: Path
    call: dict[str, Any] | None
    progress: dict[str, str] | None = None
    fixture: str = ""
    gpus: Sequence[str] = ()


class WorldRun:
    """A world under way.

    Args:
        order: what it runs.
        clients: agents of the nodes that it may be spread over.
        network: how their nodes reach each other.

    Attributes:
        result: what is known of it.
    """

    def __init__(self, order: Order, clients: Sequence[AgentClient], network: Network) -> None:
        self._order = order
        self._network = network
        places = spread(order.world.world_size, [client.node for client in clients])
        self._places = dict(zip(clients, places, strict=False))
        self._pending: dict[AgentClient, Place] = {}
        ranks = [RankResult(r, node=place.node) for place in places for r in place.ranks]
        self.result = WorldResult(ranks, started_at=time.monotonic(), folder=order.basetemp)
        self._run_id = f"{os.getpid()}-{self.result.started_at:.6f}"
        self._ready = 0
        self._told: set[str] = set()

    @property
    def alone(self) -> bool:
        """Whether it is on one node."""
        return len(self._places) == 1

    @property
    def pending(self) -> list[AgentClient]:
        """The agents that have a part in it and have not said how that ended."""
        return list(self._pending)

    @property
    def ended(self) -> bool:
        """Whether nothing more will be heard of it."""
        return not self._pending

    def begin(self) -> None:
        """Lets the first node begin; its store is what the others need to know."""
        first = next(iter(self._places))
        self._run_on(first, store=None)

    def _run_on(self, client: AgentClient, store: list[Any] | None) -> None:
        place = self._places[client]
        self._pending[client] = place
        self._tell(
            client,
            {
                "type": "run",
                "nodeid": self._order.nodeid,
                "world": dataclasses.asdict(self._order.world),
                "place": dataclasses.asdict(place),
                "host": LOOPBACK if self.alone else self._network.host,
                "interface": "" if self.alone else self._network.interfaces[place.node_rank],
                "store": store,
                "basetemp": str(self._order.basetemp),
                "run_id": self._run_id,
                "call": self._order.call,
                "progress": self._order.progress,
                "fixture": self._order.fixture,
                "gpus": list(self._order.gpus),
            },
        )

    def _begin_on_others(self, first: AgentClient, store: list[Any]) -> None:
        for client in self._places:
            if client is not first:
                self._run_on(client, store)

    def _tell(self, client: AgentClient, frame: channel.Frame) -> None:
        try:
            client.write(frame)
        except AgentError as error:
            self.lose(client, str(error))

    def _tell_others(self, client: AgentClient, frame: channel.Frame) -> None:
        for other in list(self._pending):
            if other is not client:
                self._tell(other, frame)

    def hear(self, client: AgentClient, frame: channel.Frame) -> None:
        """Takes what an agent says of its ranks.

        Raises:
            AgentError: it refuses, or is gone and no other node has a part in this.
        """
        match frame["type"]:
            case "rank":
                self._hear_rank(client, frame)
            case "store":
                self._begin_on_others(client, frame["address"])
            case "news" if frame["run_id"] == self._run_id:
                self._pass_on(client, frame)
            case "spawning":
                self.result.spawned = frame["why"]
            case "refused":
                self._pending.pop(client)
                self.abort(frame["text"], stacks=False)
                where = f"{client.node}: " if client.node else ""
                raise AgentError(where + frame["text"])
            case "ended":
                self._end(client, frame)
            case "lost":
                self.lose(client, frame["text"])

    def _pass_on(self, client: AgentClient, frame: channel.Frame) -> None:
        """Tells the others; what all nodes have to say is told once, so that frames stay linear."""
        match frame["news"]:
            case "ready":
                self._ready += 1
                if self._ready == len(self._places):
                    for each in list(self._pending):
                        self._tell(each, frame)
            case "decided" | "hang" as news if news in self._told:
                pass
            case news:
                self._told.add(news)
                self._tell_others(client, frame)

    def _hear_rank(self, client: AgentClient, frame: channel.Frame) -> None:
        rank = self.result.ranks[frame["rank"]]
        at = frame.get("at", 0.0) - client.ahead
        match frame["event"]:
            case "ready":
                rank.ready_at = at
                rank.began_at = frame["began"] - client.ahead
            case "report":
                rank.phases.append(Phase(frame["when"], frame["outcome"], at, frame["report"]))
            case "warning":
                self.result.warnings.append(frame)
            case "value":
                self.result.values[rank.rank] = frame["value"]
            case "finished":
                rank.finished_at = at

    def _end(self, client: AgentClient, frame: channel.Frame) -> None:
        result = self.result
        if frame["hang"] and (not result.hang or frame["hang_at"] - client.ahead < result.hang_at):
            world = self._order.world
            result.hang = frame["hang"]
            result.hang_at = frame["hang_at"] - client.ahead
            start_up = result.hang == "start-up"
            result.budget = world.startup_budget if start_up else world.body_budget
        where = f" on {client.node}" if client.node else ""
        result.leaks += [leak + where for leak in frame["leaks"]]
        for told in frame["ranks"]:
            rank = result.ranks[told.pop("rank")]
            for name, value in told.items():
                setattr(rank, name, value)
            if rank.exited_at is not None:
                rank.exited_at -= client.ahead
            if rank.status == -signal.SIGTERM and client.ending:
                rank.note = rank.note or client.ending
        self._is_over(client)

    def _is_over(self, client: AgentClient) -> None:
        self._pending.pop(client, None)
        if self._pending:
            return
        self.result.ended_at = time.monotonic()
        if not self.alone:
            self._tell(next(iter(self._places)), {"type": "drop"})

    def lose(self, client: AgentClient, why: str) -> None:
        """A node is gone, with its ranks.

        Raises:
            AgentError: it was the only one.
        """
        # First, since of those that are told of it one may be lost as well, and tell this one.
        pending = self._pending.pop(client, None)
        if self.alone:
            raise AgentError(why)
        if pending is None:
            return
        for number in self._places[client].ranks:
            rank = self.result.ranks[number]
            rank.lost, rank.exited_at = why, client.lost_at
        self._tell_others(client, {"type": "news", "news": "decided", "run_id": self._run_id})
        self._is_over(client)

    def abort(self, why: str, *, stacks: bool) -> None:
        """Ends it on all nodes.

        Args:
            stacks: whether to take the stacks of its ranks first.
        """
        for client in list(self._pending):
            self._tell(client, {"type": "abort", "why": why, "stacks": stacks})
