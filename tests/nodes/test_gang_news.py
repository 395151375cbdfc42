"""What one node's part of a world tells the others, and does on their news."""

import functools
import os
import selectors
import time
from types import SimpleNamespace

import pytest

from pytest_deepspeed.processes.gang import Gang
from pytest_deepspeed.processes.roll_call import Network
from pytest_deepspeed.processes.world_run import Order, WorldRun
from pytest_deepspeed.values.world import GRACE, World, spread


class Client:
    """An agent as a `WorldRun` knows it: news for it reach its part of the world at once."""

    ahead = 0.0

    def __init__(self, node):
        self.node = node
        self.gang = None
        self.told = []

    def write(self, frame):
        if frame["type"] == "news":
            self.told.append(frame["news"])
            self.gang.hear_of(frame["news"])


@pytest.fixture
def parts(tmp_path):
    """The two parts of a world of 2, the builds that they asked for, and the news for each."""
    asked = []
    builds = SimpleNamespace(request=lambda name, done: asked.append(done))
    null = os.open(os.devnull, os.O_WRONLY)
    clients = [Client("n1"), Client("n2")]
    world = World(2, startup_budget=30.0, body_budget=100.0)
    run = WorldRun(Order("test", world, tmp_path, None), clients, Network("", ("", "")))
    for client, place in zip(clients, spread(2, ["n1", "n2"]), strict=True):
        task = SimpleNamespace(world=world, place=place, order={"run_id": run._run_id})
        send = functools.partial(run.hear, client)
        gang = client.gang = Gang(task, None, selectors.DefaultSelector(), send, builds)
        (rank,) = place.ranks
        # A rank whose process has ended is given no signal.
        gang._members = [SimpleNamespace(rank=rank, replies=null, exited_at=0.0, ready=False)]
        gang._next_budget("start-up", 30.0)
    run.begin()
    run.hear(clients[0], {"type": "store", "address": ["", 1]})
    yield [client.gang for client in clients], asked, [client.told for client in clients]
    os.close(null)


def ready(gang):
    """Its rank says that it has joined the process group."""
    gang._hear(gang._members[0], {"type": "ready", "began": 0.0, "at": 0.0})


def test_the_body_begins_when_all_nodes_are_ready(parts):
    """Protects: a node that is slow to start takes nothing of the other's body budget."""
    (first, second), _, told = parts
    ready(first)

    assert (first.timeout(), second.timeout()) == pytest.approx((30, 30), abs=5)

    first._since -= 1000
    ready(second)

    assert (first.timeout(), second.timeout()) == pytest.approx((100, 100), abs=5)
    assert told == [["ready"], ["ready"]]


def test_an_op_build_stops_the_clocks_of_all_nodes(parts):
    """Protects: ranks that wait for one whose node compiles an op are not out of time."""
    (first, second), asked, told = parts
    ready(first)
    ready(second)
    first._since -= 40
    second._since -= 40
    for gang in (first, second):
        gang._hear(gang._members[0], {"type": "op", "name": "cpu_adam"})

    assert (first.timeout(), second.timeout()) == (None, None)

    for gang in (first, second):
        gang._since = time.monotonic() - 1000
    asked[0]("/ops/cpu_adam.so", "")

    assert (first.timeout(), second.timeout()) == (None, None), "the other still builds"

    asked[1]("/ops/cpu_adam.so", "")

    assert (first.timeout(), second.timeout()) == pytest.approx((60, 60), abs=5)
    assert told == [["ready", "pause", "resume"]] * 2


def test_a_decision_on_one_node_gives_the_other_the_grace(parts):
    """Protects: after a failure the ranks of the other node have a second, not their budget."""
    (first, second), _, told = parts
    ready(first)
    ready(second)
    report = {"when": "call", "outcome": "failed", "at": 1.0, "report": {}}
    second._hear(second._members[0], {"type": "report", **report})

    assert told == [["ready", "decided"], ["ready"]]
    assert 0 < first.timeout() <= GRACE
    assert 0 < second.timeout() <= GRACE


def test_a_deadline_on_one_node_is_one_for_all(parts):
    """Protects: the node that meets the deadline tells the other, which takes its stacks too."""
    (first, second), _, told = parts
    ready(first)
    ready(second)
    taken = []
    for gang in (first, second):
        gang._members[0].exited_at = None
        gang._take_stacks = lambda gang=gang: taken.append(gang)
    second._since -= 1000
    second.tick()

    assert told == [["ready", "hang"], ["ready"]]
    assert sorted(map(id, taken)) == sorted(map(id, (first, second)))
    assert second._hang[0] == "body"
    assert first._hang is None
    assert 0 < first.timeout() <= GRACE
    assert 0 < second.timeout() <= GRACE
