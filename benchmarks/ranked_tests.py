"""The tests that are timed: as many alike as there are requests."""

from __future__ import annotations

import os

import pytest

from benchmarks import contenders
from pytest_deepspeed.fixtures import DsTrain


@pytest.fixture(params=range(int(os.environ["BENCHMARK_TESTS"])), autouse=True)
def number(request: pytest.FixtureRequest) -> int:
    """One test for each request."""
    return int(request.param)


@pytest.mark.world_size(contenders.WORLD_SIZE)
def test_all_reduce() -> None:
    """The same body as the contenders', in a world that the plugin has formed."""
    contenders.all_reduce()


@pytest.mark.world_size(contenders.WORLD_SIZE)
@pytest.mark.ds_config(stage=2)
def test_zero2(ds_train: DsTrain) -> None:
    """The reference training: an engine is built and takes 20 steps."""
    assert ds_train(steps=20).check() == []
