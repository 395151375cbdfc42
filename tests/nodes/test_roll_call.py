"""The roll call before the first test: what is not alike is one message that says what to do."""

from pathlib import Path

import pytest

from pytest_deepspeed.processes import presence, roll_call
from pytest_deepspeed.values.errors import AgentError


class Node:
    """An agent as the roll call knows it: its ``up`` frame, and what it answers."""

    def __init__(self, node, *, versions=None, items=3, machine=None, ahead=0.0, answers=None):
        self.node = node
        self.ahead = 0.0
        self.up = {
            "host": node,
            "machine": machine or node,
            "items": items,
            "versions": {"Python": "3.11.7", "torch": "2.13.0", **(versions or {})},
        }
        self._clock = ahead
        self._answers = answers or {}

    def ask(self, frame):
        match frame["type"]:
            case given if given in self._answers:
                return self._answers[given]
            case "look":
                return {"text": Path(frame["path"]).read_text()}
            case "clocks":
                clocks = presence.clocks()
                return {name: clock + self._clock for name, clock in clocks.items()}
            case "listen":
                interfaces = {"10.0.0.1": "eth0", "10.1.0.1": "ib0"}
                return {"hosts": list(interfaces), "port": 5, "interfaces": interfaces}
            case "reach":
                return {"reached": {"10.1.0.1": "ib1"}, "failed": ["10.0.0.1 (timed out)"]}
        return {}


def ask(frames):
    """The answers of all nodes that are asked."""
    return {node: node.ask(frame) for node, frame in frames.items()}


def call(tmp_path, *nodes):
    """The roll call of these nodes; nothing of it stays in the shared directory."""
    try:
        return roll_call.call(nodes, ask, tmp_path, "cpu")
    finally:
        assert list(tmp_path.iterdir()) == []


def refusal(tmp_path, *nodes):
    """The message of a roll call that fails."""
    with pytest.raises(AgentError) as caught:
        call(tmp_path, *nodes)
    return str(caught.value)


def test_nodes_that_are_alike(tmp_path):
    """Protects: ranks meet at an address that all nodes reach, over the interface to it."""
    assert call(tmp_path, Node("n1"), Node("n2"), Node("n3")) == roll_call.Network(
        "10.1.0.1", ("ib0", "ib1", "ib1")
    )


def test_agents_of_one_machine(tmp_path):
    """Protects: emulated nodes meet at the loopback, and need no network."""
    nodes = [Node(f"node{i}", machine=presence.machine(), answers={"listen": {}}) for i in (0, 1)]

    assert call(tmp_path, *nodes) == roll_call.Network("127.0.0.1", ("", ""))


def test_one_node_seen_from_a_login_node(tmp_path):
    """Protects: a single node of a job is asked as well, and its clock is not the controller's."""
    node = Node("n1", ahead=3.5)
    assert call(tmp_path, node) == roll_call.Network("127.0.0.1", ("",))
    assert node.ahead == pytest.approx(3.5, abs=0.5)
    assert refusal(tmp_path, Node("n1", answers={"look": {"text": None}})).startswith(
        f"n1 does not see {tmp_path}, where tests have their tmp_path: "
    )


def test_one_boot_and_two_networks(tmp_path):
    """Protects: no loopback between two network namespaces of one machine."""
    nodes = [Node("n1", machine="boot net:[1]"), Node("n2", machine="boot net:[2]")]

    assert call(tmp_path, *nodes).host == "10.1.0.1"


def test_versions_differ(tmp_path):
    """Protects: package, versions and nodes are named."""
    nodes = [Node("n1"), Node("n2"), Node("n3", versions={"torch": "2.12.1"})]

    assert refusal(tmp_path, *nodes) == (
        "torch is 2.13.0 on n1 and 2.12.1 on n3: all nodes need the same environment, which"
        " slurm/config_env.sh makes on each"
    )


def test_fewer_tests_collected(tmp_path):
    """Protects: a node that sees other test files is named, with the counts."""
    assert refusal(tmp_path, Node("n1"), Node("n2", items=1)) == (
        f"n2 has collected 1 tests and n1 3: does n2 see {Path.cwd()} as it is here? Tests must be"
        " on a file system that all nodes share"
    )


def test_temporary_directory_is_not_shared(tmp_path):
    """Protects: the directory is named, and the option that names another."""
    assert refusal(tmp_path, Node("n1"), Node("n2", answers={"look": {"text": None}})) == (
        f"n2 does not see {tmp_path}, where tests have their tmp_path: it must be on a file system"
        " that all nodes share. Name a directory there, which is emptied first:"
        " --basetemp=$SLURM_SUBMIT_DIR/pytest-tmp"
    )


def test_a_clock_is_ahead(tmp_path):
    """Protects: which clock is wrong is said, and by how much."""
    assert refusal(tmp_path, Node("n1"), Node("n2", ahead=600.2)) == (
        "the clock of n2 is 600 s ahead of that of n1: what is on a directory that both share,"
        " such as compiled ops, is compared by its time. Set them by NTP (`chronyc tracking` says"
        " how far off one is)"
    )
    assert refusal(tmp_path, Node("n1", ahead=3.0), Node("n2", ahead=-3.0)).startswith(
        "the clock of n1 is 6 s ahead of that of n2: "
    )


def test_clocks_within_tolerance_are_measured(tmp_path):
    """Protects: what ranks of different nodes did is put in order by the controller's clock."""
    nodes = [Node("n1"), Node("n2", ahead=2.5)]
    call(tmp_path, *nodes)

    assert [node.ahead for node in nodes] == pytest.approx([0.0, 2.5], abs=0.5)


def test_cannot_connect(tmp_path):
    """Protects: of the nodes the one that reaches nothing is named, what it tried, and why not."""
    failed = [
        "10.0.0.1 (No route to host)",
        "10.1.0.1 (timed out)",
        "n1 (Name or service not known)",
    ]
    lost = Node("n3", answers={"reach": {"reached": {}, "failed": failed}})

    assert refusal(tmp_path, Node("n1"), Node("n2"), lost) == (
        "n3 cannot connect to n1: tried 10.0.0.1 (No route to host), 10.1.0.1 (timed out), n1 (Name"
        " or service not known). Ranks connect to each other on ports that the system chooses: the"
        " network between nodes must let them through"
    )


def test_no_address_for_all(tmp_path):
    """Protects: a network in which each node is reached in another way is refused as well."""
    other = {"reached": {"10.0.0.1": "eth0"}, "failed": ["10.1.0.1 (timed out)"]}

    assert refusal(tmp_path, Node("n1"), Node("n2"), Node("n3", answers={"reach": other})) == (
        "n2 cannot connect to n1: tried 10.0.0.1 (timed out). Ranks connect to each other on ports"
        " that the system chooses: the network between nodes must let them through"
    )


def test_no_gpu(tmp_path):
    """Protects: a node without the devices that ranks are to compute on is named."""
    nodes = [Node("n1"), Node("n2")]
    for node, gpus in zip(nodes, (2, 0), strict=True):
        node.up["gpus"] = gpus

    with pytest.raises(AgentError) as caught:
        roll_call.call(nodes, ask, tmp_path, "cuda")

    assert str(caught.value) == (
        "n2 has no GPU that this job may use, and ranks are to run on CUDA: ask Slurm for GPUs on"
        " each node (--gpus-per-node=2), or use --ds-device=cpu"
    )
