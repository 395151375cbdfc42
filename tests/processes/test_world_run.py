"""A world over nodes, as the controller sees it: what it tells whom."""

from pathlib import Path

import pytest

from pytest_deepspeed.processes.roll_call import Network
from pytest_deepspeed.processes.world_run import Order, WorldRun
from pytest_deepspeed.values.errors import AgentError
from pytest_deepspeed.values.world import World


class Node:
    """In an agent's place: keeps what it is told."""

    ahead = 0.0
    ending = ""
    lost_at = 0.0

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
    order = Order("test_a.py::test_b", World(len(nodes), startup_budget=30.0), Path("/tmp"), None)
    run = WorldRun(order, nodes, Network("10.0.0.1", ("eth0",) * len(nodes)))
    run.begin()
    run.hear(nodes[0], {"type": "store", "address": ["10.0.0.1", 1]})
    return run


def news(run, what):
    """What an agent says to the others."""
    return {"type": "news", "news": what, "run_id": run._run_id}


def ended(*ranks, hang="", hang_at=0.0):
    """The last that an agent says of a world."""
    return {"type": "ended", "hang": hang, "hang_at": hang_at, "leaks": [], "ranks": list(ranks)}


def test_a_lone_agent_that_is_lost(nodes):
    """Protects: nothing more is waited for; the verdict came 15 s late after an agent's garbage."""
    order = Order("test_a.py::test_b", World(1), Path("/tmp"), None)
    run = WorldRun(order, nodes[:1], Network("", ("",)))
    run.begin()

    with pytest.raises(AgentError, match=r"^it is gone$"):
        run.hear(nodes[0], {"type": "lost", "text": "it is gone"})

    assert run.ended


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


def test_times_are_those_of_the_controllers_clock(run, nodes):
    """Protects: what happened first is the same question on nodes whose clocks differ by days."""
    nodes[3].ahead = 1e6
    rank = {"type": "rank", "rank": 3}
    run.hear(nodes[3], {**rank, "event": "ready", "began": 1e6 + 1, "at": 1e6 + 2})
    report = {"when": "call", "outcome": "failed", "report": {}}
    run.hear(nodes[3], {**rank, "event": "report", "at": 1e6 + 3, **report})
    run.hear(nodes[3], {**rank, "event": "finished", "at": 1e6 + 4})
    run.hear(nodes[3], ended({"rank": 3, "exited_at": 1e6 + 5}))

    seen = run.result.ranks[3]
    (phase,) = seen.phases
    times = (seen.began_at, seen.ready_at, phase.at, seen.finished_at, seen.exited_at)
    assert times == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["first", "last"])
def test_of_two_hangs_the_earlier_counts(run, nodes, order):
    """Protects: by the controller's clock, whichever node is heard first, with its own budget."""
    nodes[1].ahead, nodes[2].ahead = 1000.0, -1000.0
    said = {
        1: ended(hang="start-up", hang_at=1000.0 + 5),
        2: ended(hang="body", hang_at=-1000.0 + 7),
    }
    for number in order:
        run.hear(nodes[number], said[number])

    result = run.result
    assert (result.hang, result.hang_at, result.budget) == ("start-up", 5, 30)


def test_a_node_refuses(run, nodes):
    """Protects: the other nodes are ended, and nobody waits for the end of what never began."""
    with pytest.raises(AgentError, match=r"^n3: no such test$"):
        run.hear(nodes[3], {"type": "refused", "text": "no such test"})

    others = [*nodes[:3], *nodes[4:]]
    assert nodes[3].told == ["run"]
    assert [node.told for node in others] == [["run", "abort"]] * len(others)
    for node in others:
        assert not run.ended
        run.hear(node, ended())
    assert run.ended


def test_a_node_is_lost(run, nodes):
    """Protects: its rank is lost when the node was; the other nodes get the grace, and it none."""
    nodes[3].lost_at = 8.0
    run.hear(nodes[3], {"type": "lost", "text": "node n3 was lost: power"})

    seen = run.result.ranks[3]
    assert (seen.lost, seen.exited_at) == ("node n3 was lost: power", 8.0)
    assert [node.told[1:] for node in nodes] == [["decided"] if n != 3 else [] for n in range(16)]


def test_a_node_is_lost_that_had_ended(run, nodes):
    """Protects: a rank that has ended in order is not called lost with its node, and all go on."""
    run.hear(nodes[3], ended({"rank": 3, "status": 0, "exited_at": 5.0}))
    run.hear(nodes[3], {"type": "lost", "text": "node n3 was lost: power"})

    seen = run.result.ranks[3]
    assert (seen.lost, seen.status, seen.exited_at) == ("", 0, 5.0)
    assert [node.told for node in nodes] == [["run"]] * len(nodes)


def test_two_nodes_are_lost_at_once(run, nodes):
    """Protects: a second one that is found lost while it is told of the first is just one more."""
    for node in nodes[3:5]:

        def write(frame, node=node):
            raise AgentError(f"node {node.node} was lost: power")

        node.write = write
    run.hear(nodes[3], {"type": "lost", "text": "node n3 was lost: power"})

    lost = [rank.lost for rank in run.result.ranks[2:6]]
    assert lost == ["", "node n3 was lost: power", "node n4 was lost: power", ""]
    told = [node.told[1:] for node in nodes]
    assert told == [["decided"] * 2 if n not in (3, 4) else [] for n in range(16)]
