"""Before the first test over nodes: are they alike, and do they reach each other?"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_deepspeed.processes import channel, presence
from pytest_deepspeed.processes.client import AgentClient
from pytest_deepspeed.processes.rendezvous import LOOPBACK
from pytest_deepspeed.values.errors import AgentError

#: Seconds that the clocks of two nodes may differ.
CLOCK_TOLERANCE = 5.0

_PINGS = 5

#: Asks some agents at once, and waits for the answer of each.
Ask = Callable[[Mapping[AgentClient, channel.Frame]], Mapping[AgentClient, channel.Frame]]


@dataclasses.dataclass(frozen=True)
class Network:
    """How the nodes of a session reach each other.

    Attributes:
        host: the address of node 0 that ranks on all nodes connect to.
        interfaces: of each node, the network interface that leads there; empty for the loopback.
    """

    host: str
    interfaces: tuple[str, ...]


def call(clients: Sequence[AgentClient], ask: Ask, shared: Path, device: str) -> Network:
    """Compares the nodes.

    Args:
        clients: their agents, all up.
        ask: asks some of them.
        shared: the directory of this session's temporary files.
        device: ``"cpu"`` or ``"cuda"``: what ranks compute on.

    Raises:
        AgentError: tests over them could not run; says why and what to do.
    """
    _versions(clients)
    if device == "cuda":
        _gpus(clients)
    _collected(clients)
    _shared(clients, ask, shared)
    machines = {_of(client, "machine") for client in clients}
    if machines != {presence.machine()}:
        _clocks(clients, ask)
    if len(machines) == 1:
        return Network(LOOPBACK, ("",) * len(clients))
    return _network(clients, ask)


def _of(client: AgentClient, fact: str) -> Any:
    assert client.up is not None
    return client.up[fact]


def _versions(clients: Sequence[AgentClient]) -> None:
    first = clients[0]
    for client in clients[1:]:
        for name, version in _of(first, "versions").items():
            other = _of(client, "versions")[name]
            if other != version:
                raise AgentError(
                    f"{name} is {version} on {first.node} and {other} on {client.node}: all nodes"
                    " need the same environment, which slurm/config_env.sh makes on each"
                )


def _gpus(clients: Sequence[AgentClient]) -> None:
    for client in clients:
        if not _of(client, "gpus"):
            raise AgentError(
                f"{client.node} has no GPU that this job may use, and ranks are to run on CUDA: ask"
                " Slurm for GPUs on each node (--gpus-per-node=2), or use --ds-device=cpu"
            )


def _collected(clients: Sequence[AgentClient]) -> None:
    most = max(clients, key=lambda client: _of(client, "items"))
    for client in clients:
        if _of(client, "items") < _of(most, "items"):
            raise AgentError(
                f"{client.node} has collected {_of(client, 'items')} tests and {most.node}"
                f" {_of(most, 'items')}: does {client.node} see {Path.cwd()} as it is here? Tests"
                " must be on a file system that all nodes share"
            )


def _shared(clients: Sequence[AgentClient], ask: Ask, shared: Path) -> None:
    token = uuid.uuid4().hex
    file = shared / f".seen_by_all_nodes_{token}"
    file.write_text(token)
    try:
        look = {"type": "look", "path": str(file)}
        seen = ask(dict.fromkeys(clients, look))
        for client in clients:
            if seen[client]["text"] != token:
                raise AgentError(
                    f"{client.node} does not see {shared}, where tests have their tmp_path: it must"
                    " be on a file system that all nodes share. Name a directory there, which is"
                    " emptied first: --basetemp=$SLURM_SUBMIT_DIR/pytest-tmp"
                )
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def _clocks(clients: Sequence[AgentClient], ask: Ask) -> None:
    """Measures by how much the clocks differ; the quickest of some questions is the least wrong."""
    wall: dict[str, float] = {}
    for client in clients:
        best = float("inf")
        for _ in range(_PINGS):
            asked, asked_wall = time.monotonic(), time.time()
            told = ask({client: {"type": "clocks"}})[client]
            took = time.monotonic() - asked
            if took < best:
                best = took
                client.ahead = told["monotonic"] - (asked + took / 2)
                wall[client.node] = told["time"] - (asked_wall + took / 2)
    early, late = min(wall, key=wall.__getitem__), max(wall, key=wall.__getitem__)
    if wall[late] - wall[early] > CLOCK_TOLERANCE:
        raise AgentError(
            f"the clock of {late} is {wall[late] - wall[early]:.0f} s ahead of that of {early}:"
            " what is on a directory that both share, such as compiled ops, is compared by its"
            " time. Set them by NTP (`chronyc tracking` says how far off one is)"
        )


def _network(clients: Sequence[AgentClient], ask: Ask) -> Network:
    """The address of node 0 that every other node can connect to."""
    first, *others = clients
    there = ask({first: {"type": "listen"}})[first]
    # The name last: what it resolves to may differ from node to node.
    hosts = [*there["hosts"], _of(first, "host")]
    reach = {"type": "reach", "hosts": hosts, "port": there["port"]}
    ways = ask(dict.fromkeys(others, reach))
    ask({first: {"type": "listened"}})
    for host in there["hosts"]:
        if all(host in way["reached"] for way in ways.values()):
            leads = (there["interfaces"][host], *(way["reached"][host] for way in ways.values()))
            return Network(host, leads)
    # One that has reached nothing at all, where there is one.
    client, way = min(ways.items(), key=lambda each: len(each[1]["reached"]))
    raise AgentError(
        f"{client.node} cannot connect to {first.node}: tried {', '.join(way['failed'])}. Ranks"
        " connect to each other on ports that the system chooses: the network between nodes must"
        " let them through"
    )
