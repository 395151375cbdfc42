"""Agents on nodes change from srun's pipes to a connection of their own."""

import in_a_job

_TEST = """
import time

import pytest

from pytest_deepspeed.controller import CONTROLLER


def test_of_the_controller():
    time.sleep(15)  # meanwhile nobody answers an agent


@pytest.mark.world_size(2)
def test_on_ranks():
    pass


def test_channels(request):
    clients = request.config.stash[CONTROLLER]._agents._clients
    assert [len(client.readers) for client in clients] == [2, 2]
"""


def test_dials_however_late_the_first_world_is(slurm, tmp_path):
    """Protects: agents that are up long before the first test on ranks have their connection."""
    session = in_a_job.submit(slurm, tmp_path, _TEST)

    assert session.wait().status == 0, session.output
    assert "cannot connect" not in session.output
