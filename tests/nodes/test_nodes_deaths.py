# ruff: noqa: E501 (messages are compared as they are shown)
"""What dies over two nodes, or is left: a rank, an agent, a process of the test's own."""

import re

import pytest
from nodes_lines import captured, fates, repeat

KILLER = "not by pytest-deepspeed; the kernel's OOM killer is the usual sender (dmesg tells)"

DEATHS = {
    "killed": ("was killed by SIGKILL in call", f": {KILLER}"),
    "exits": (
        "exited with code 3 in call",
        ", before the test ended (os._exit, or a library that ends the process)",
    ),
}


@pytest.mark.over_nodes(
    """
    import os, signal
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("bad", [0, 1])
    @pytest.mark.parametrize("how", ["killed", "exits"])
    def test_dies(rank, bad, how):
        dist.barrier()
        if rank == bad:
            print("last words", flush=True)
            os._exit(3) if how == "exits" else os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
    """
)
def test_a_rank_dies_on_either_node(failures):
    """Protects: a dead rank is named with its node and end, and its peer on the other is freed."""
    expected = {}
    for how, (end, why) in DEATHS.items():
        for bad in (0, 1):
            expected[f"test_dies[{how}-{bad}]"] = (
                f"E   rank {bad} on node{bad} {end}{why}\n"
                + fates(*(end if rank == bad else "aborted in call" for rank in (0, 1)))
                + repeat(f"test_dies.py::test_dies[{how}-{bad}]")
                + captured(bad, "last words")
            )
    assert failures == expected


@pytest.mark.over_nodes(
    """
    import os, signal, subprocess, time
    from pathlib import Path
    import pytest, torch, torch.distributed as dist

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("node", [1, 0])
    def test_agent_killed(rank, node):
        Path(f"agent_{node}_{rank}").write_text(str(os.getppid()))
        dist.barrier()
        if rank == node:
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)

    @pytest.mark.world_size(2)
    def test_on_a_new_agent(rank):
        dist.all_reduce(torch.ones(1))
        Path(f"agent_later_{rank}").write_text(str(os.getppid()))
    """
)
def test_the_agent_of_a_node_is_killed(failures, over_nodes):
    """Protects: a lost node is one failed test that names it; the next has a new agent there."""
    assert failures == {
        f"test_agent_killed[{node}]": (
            f"E   rank {node} on node{node} was lost in call: node node{node} was lost: its agent"
            f" was killed by SIGKILL: {KILLER}.\n"
        )
        + fates(
            *(
                "was lost with its node in call" if rank == node else "aborted in call"
                for rank in (0, 1)
            )
        )
        + repeat(f"test_agent_killed.py::test_agent_killed[{node}]")
        for node in (0, 1)
    }
    assert over_nodes.summary[-1] == "PASSED test_agent_killed.py::test_on_a_new_agent"
    assert over_nodes.left == []
    pids = {file.name: file.read_text() for file in over_nodes.session.folder.glob("agent_*")}
    assert pids["agent_1_0"] == pids["agent_0_0"], "node 0 was not lost: its agent stays"
    assert pids["agent_1_1"] != pids["agent_0_1"] == pids["agent_later_1"]
    assert pids["agent_0_0"] != pids["agent_later_0"]


@pytest.mark.over_nodes(
    """
    import os, subprocess, uuid
    from pathlib import Path
    import pytest

    @pytest.mark.world_size(2)
    def test_leaves(rank):
        if rank == 1:
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            Path(f"/dev/shm/left_{uuid.uuid4().hex}_{os.getpid()}").write_text("x")
    """
)
def test_what_a_test_leaves_on_the_second_node(over_nodes):
    """Protects: a leak is a warning that names the node."""
    assert "PASSED test_leaves.py::test_leaves" in over_nodes.summary
    shown = re.sub(r"left_[0-9a-f]+_\d+", "left_N", over_nodes.warnings)
    assert shown == (
        "test_leaves.py::test_leaves\n"
        "  DIR/test_leaves.py:5: RankLeakWarning: a process was left running and was killed: sleep 600 (pid N) on node1\n"
        "    @pytest.mark.world_size(2)\n"
        "test_leaves.py::test_leaves\n"
        "  DIR/test_leaves.py:5: RankLeakWarning: a shared-memory segment was left and was unlinked: /dev/shm/left_N (1 bytes) on node1\n"
        "    @pytest.mark.world_size(2)\n"
    )
    assert over_nodes.left == []
