"""pytest-deepspeed: tests on real ranks of `torch.distributed`, and DeepSpeed configs as tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_deepspeed.distributed import DistributedFixture, DistributedTest
from pytest_deepspeed.errors import (
    DsConfigWarning,
    RankLeakWarning,
    RanksFailed,
    RankSpawnWarning,
)
from pytest_deepspeed.values import role as _role

if TYPE_CHECKING:
    import pytest

    from pytest_deepspeed.training.workload.contract import Workload, WorkloadError

__all__ = [
    "DistributedFixture",
    "DistributedTest",
    "DsConfigWarning",
    "RankLeakWarning",
    "RankSpawnWarning",
    "RanksFailed",
    "Workload",
    "WorkloadError",
    "ds_role",
]


def __getattr__(name: str) -> Any:
    """`Workload` and its error, which few sessions need."""
    if name not in ("Workload", "WorkloadError"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pytest_deepspeed.training.workload import contract

    return getattr(contract, name)


def ds_role(config: pytest.Config) -> _role.Role:  # noqa: ARG001 (one process has one config)
    """Which process this is: ``"controller"``, ``"agent"`` or ``"rank"``.

    For hooks of a ``conftest.py``, which run in all three: the controller is the pytest that was
    typed, the agent has collected the same tests and forks ranks, a rank runs one test.
    """
    return _role.current()
