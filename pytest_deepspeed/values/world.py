"""The shape of a world of ranks, and the environment each rank sees."""

from __future__ import annotations

import dataclasses
import os

#: A CPU world may hold this many ranks for each core. More of them only wait for each other.
RANKS_PER_CORE = 8

#: Start-up budget in seconds: fork, rendezvous, process group. Op builds do not count.
STARTUP_BUDGET = 60.0

#: Body budget in seconds: fixtures, body and teardown of one test. Op builds do not count.
BODY_BUDGET = 60.0

#: After the first failure the other ranks have this many seconds to end by themselves.
GRACE = 1.0


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


def max_cpu_world_size() -> int:
    """Ranks a CPU world may have on this machine: 8 for each core this process may use."""
    return RANKS_PER_CORE * len(os.sched_getaffinity(0))


def under_torchrun() -> bool:
    """Whether torchrun has made this process a rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def torchrun_environment(
    rank: int, world_size: int, master_addr: str, master_port: int, run_id: str
) -> dict[str, str]:
    """The variables that ``torchrun`` gives a worker, for one node.

    Source: ``torch/distributed/elastic/agent/server/local_elastic_agent.py``.
    ``TORCHELASTIC_USE_AGENT_STORE`` makes ``init_method="env://"`` a client of the store that
    already listens at ``MASTER_PORT``, so that code that forms its own group needs no free port.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
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
