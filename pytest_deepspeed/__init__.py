"""pytest-deepspeed: tests on real ranks of `torch.distributed`, and DeepSpeed configs as tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_deepspeed.errors import RankLeakWarning, RanksFailed, RankSpawnWarning
from pytest_deepspeed.values import role as _role

if TYPE_CHECKING:
    import pytest

__all__ = ["RankLeakWarning", "RankSpawnWarning", "RanksFailed", "ds_role"]


def ds_role(config: pytest.Config) -> _role.Role:  # noqa: ARG001 (one process has one config)
    """Which process this is: ``"controller"``, ``"agent"`` or ``"rank"``.

    For hooks of a ``conftest.py``, which run in all three: the controller is the pytest that was
    typed, the agent has collected the same tests and forks ranks, a rank runs one test.
    """
    return _role.current()
