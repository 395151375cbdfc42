"""The shape of a world of ranks, and the environment each rank sees."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

#: A CPU world may hold this many ranks for each core. More of them only wait for each other.
RANKS_PER_CORE = 8

#: Start-up budget in seconds: fork, rendezvous, process group. Op builds do not count.
STARTUP_BUDGET = 60.0

#: Body budget in seconds: fixtures, body and teardown of one test. Op builds do not count.
BODY_BUDGET = 60.0

#: After the first failure the other ranks have this many seconds to end by themselves.
GRACE = 1.0

#: Those that compute, and do not wait for anybody, have so many: on a busy machine a rank that was
#: freed by its peer's end takes seconds for the report that says so.
LONGEST_GRACE = 5.0


@dataclasses.dataclass(frozen=True)
class World:
    """One set of ranks that one test runs on.

    Attributes:
        world_size: number of ranks in total.
        init_process_group: whether the default process group is formed before the test's fixtures.
        backend: ``torch.distributed`` backend of that group, ``"gloo"`` or ``"nccl"``.
        device: ``"cpu"`` or ``"cuda"``.
        startup_budget: seconds until every rank must be ready.
        body_budget: seconds until every rank must have ended, counted from ready.
        seed: seed of ``random``, NumPy and torch, the same on each rank.
    """

    world_size: int
    init_process_group: bool = True
    backend: str = "gloo"
    device: str = "cpu"
    startup_budget: float = STARTUP_BUDGET
    body_budget: float = BODY_BUDGET
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the ranks of one node stand in their world.

    Attributes:
        node: the node's name, for messages; empty where there is no other node.
        node_rank: the node's number among those of the world, from 0.
        num_nodes: how many nodes the world is spread over.
        first_rank: the lowest global rank on this node.
        local_world_size: ranks on this node.
    """

    node: str
    node_rank: int
    num_nodes: int
    first_rank: int
    local_world_size: int

    @property
    def ranks(self) -> range:
        """The global ranks on this node."""
        return range(self.first_rank, self.first_rank + self.local_world_size)


def spread(world_size: int, nodes: Sequence[str]) -> list[Place]:
    """The blocks of a world on nodes, the larger ones first; of too many nodes the first are used.

    Five ranks on two nodes are 0 to 2 and 3 to 4.
    """
    count = min(world_size, len(nodes))
    each, more = divmod(world_size, count)
    sizes = [each + (i < more) for i in range(count)]
    return [Place(nodes[i], i, count, sum(sizes[:i]), sizes[i]) for i in range(count)]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def under_torchrun() -> bool:
    """Whether torchrun has made this process a rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def torchrun_environment(
    rank: int, world_size: int, place: Place, master_addr: str, master_port: int, run_id: str
) -> dict[str, str]:
    """The variables that ``torchrun`` gives a worker.

    Source: ``torch/distributed/elastic/agent/server/local_elastic_agent.py``.
    ``TORCHELASTIC_USE_AGENT_STORE`` makes ``init_method="env://"`` a client of the store that
    already listens at ``MASTER_PORT``, so that code that forms its own group needs no free port.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank - place.first_rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "GROUP_RANK": str(place.node_rank),
        "GROUP_WORLD_SIZE": str(place.num_nodes),
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(world_size),
        "ROLE_NAME": "default",
        "MASTER_ADDR": master_addr,
        "MASTER_PORT": str(master_port),
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
