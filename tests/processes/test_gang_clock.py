"""The clock of a world stands while one of its ranks waits for an op to be built."""

import os
import selectors
import time
from types import SimpleNamespace

import pytest

from pytest_deepspeed.processes.gang import Gang
from pytest_deepspeed.values.world import World, spread


@pytest.fixture
def waiting():
    """A world without processes, in its body, and the calls that end the builds it asked for."""
    asked = []
    builds = SimpleNamespace(request=lambda name, done: asked.append((name, done)))
    task = SimpleNamespace(world=World(2, body_budget=100.0), place=spread(2, [""])[0])
    gang = Gang(task, None, selectors.DefaultSelector(), lambda frame: None, builds)
    gang._next_budget("body", 100.0)
    null = os.open(os.devnull, os.O_WRONLY)
    gang._members = [SimpleNamespace(rank=r, replies=null, waits_for="") for r in (0, 1)]
    yield gang, asked
    os.close(null)


def test_the_clock_stands_while_an_op_is_built(waiting):
    """Protects: a build of minutes uses nothing of the budget; two waiting ranks count once."""
    gang, asked = waiting
    gang._since -= 40
    for member in gang._members:
        gang._hear(member, {"type": "op", "name": "cpu_adam"})

    assert gang.timeout() is None

    gang._since = time.monotonic() - 1000
    asked[0][1]("/ops/cpu_adam.so", "")

    assert gang.timeout() is None

    asked[1][1]("/ops/cpu_adam.so", "")

    assert gang.timeout() == pytest.approx(60, abs=5)
