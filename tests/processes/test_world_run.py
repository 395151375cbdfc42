"""A world over nodes, as the controller sees it: what it tells whom."""

from pathlib import Path

import pytest

from pytest_deepspeed.processes.roll_call import Network
from pytest_deepspeed.processes.world_run import Order, WorldRun
from pytest_deepspeed.values.world import World


class Node:
    """In an agent's place: keeps what it is told."""

    ahead = 0.0

    def __init__(self, number):
        self.node = f"n{number}"
        self.told = []

    def write(self, frame):
        self.told.append(frame.get("news", frame["type"]))


@pytest.fixture
def nodes():
    """Sixteen."""
    return [Node(i) for i in range(16)]


@pytest.fixture
def run(nodes):
    """A world on one rank of each node, begun everywhere."""
    order = Order("test_a.py::test_b", World(len(nodes)), Path("/tmp"), None)
    run = WorldRun(order, nodes, Network("10.0.0.1", ("eth0",) * len(nodes)))
    run.begin()
    run.hear(nodes[0], {"type": "store", "address": ["10.0.0.1", 1]})
    return run


def news(run, what):
    """What an agent says to the others."""
    return {"type": "news", "news": what, "run_id": run._run_id}


def test_all_ready_is_told_once(run, nodes):
    """Protects: frames grow as the number of nodes and not as its square, and none begins early."""
    for node in nodes[:-1]:
        run.hear(node, news(run, "ready"))
    assert [node.told for node in nodes] == [["run"]] * len(nodes)

    run.hear(nodes[-1], news(run, "ready"))

    assert [node.told for node in nodes] == [["run", "ready"]] * len(nodes)


@pytest.mark.parametrize("what", ["decided", "hang"])
def test_what_ends_a_test_is_told_once(run, nodes, what):
    """Protects: the same where all nodes say at once that a test is decided, or out of time."""
    for node in nodes:
        run.hear(node, news(run, what))

    assert [node.told for node in nodes] == [["run"]] + [["run", what]] * (len(nodes) - 1)


def test_each_pause_is_told(run, nodes):
    """Protects: a clock that two nodes have stopped stands until both let it go."""
    for node in nodes[:2]:
        run.hear(node, news(run, "pause"))

    assert [node.told[1:] for node in nodes[:3]] == [["pause"], ["pause"], ["pause", "pause"]]
