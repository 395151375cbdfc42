"""The tests over nodes that are timed: on one rank of each node, of so many nodes."""

from __future__ import annotations

import os

import pytest

SIZES = [int(size) for size in os.environ["BENCHMARK_SIZES"].split(",")]


@pytest.fixture(params=range(int(os.environ["BENCHMARK_TESTS"])), autouse=True)
def number(request: pytest.FixtureRequest) -> int:
    """One test for each round."""
    return int(request.param)


@pytest.mark.world_size(SIZES)
def test_all_reduce(world_size: int) -> None:
    """The same as in `ranked_tests`, whatever the number of ranks."""
    import torch
    from torch import distributed

    total = torch.ones(1)
    distributed.all_reduce(total)
    assert total.item() == world_size
