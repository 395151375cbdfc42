"""The tests of faults of op builds: copied as ``test_victims.py`` into a session's directory."""

import deepspeed  # noqa: F401 (an engine will be built, as far as the agent can tell)
import pytest
import torch
from deepspeed.ops.op_builder import CPUAdagradBuilder


@pytest.mark.world_size(2)
def test_loads():
    """A rank asks for an op that is not built."""
    assert CPUAdagradBuilder().load().__name__ == "cpu_adagrad"


@pytest.mark.world_size(2)
def test_loads_again():
    """And so does the next test."""
    assert CPUAdagradBuilder().load().__name__ == "cpu_adagrad"


@pytest.mark.world_size(2)
def test_after():
    """A test that needs no op."""
    ones = torch.ones(4)
    torch.distributed.all_reduce(ones)
    assert ones.sum() == 4 * torch.distributed.get_world_size()
