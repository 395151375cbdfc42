"""Sessions over nodes by themselves: more nodes, workers of xdist, and none at all."""

import json
import re

from nodes_lines import TWO_NODES

EIGHT = """
    import json, os
    from pathlib import Path
    import pytest, torch, torch.distributed as dist

    @pytest.mark.multinode(8)
    @pytest.mark.world_size(8)
    def test_sum(rank, local_rank, node_rank):
        total = torch.tensor([2.0 ** rank])
        dist.all_reduce(total)
        print("sum", int(total))
        assert (local_rank, node_rank) == (0, rank)
"""

#: Writes down when each agent began, as the kernel says, and when it had collected.
WATCH = """
import json, os, time
from pathlib import Path
import psutil
from pytest_deepspeed.values import role

def pytest_collection_finish():
    if role.current() == "agent":
        times = [psutil.Process().create_time(), time.time()]
        Path(f"agent_{os.getpid()}.json").write_text(json.dumps(times))
"""


def test_eight_nodes(inner_session, tmp_path):
    """Protects: agents start side by side, eight nodes' ranks reduce, and -s names the nodes."""
    tmp_path.joinpath("conftest.py").write_text(WATCH)
    session = inner_session(EIGHT, args=["--ds-nodes=8", "--ds-launcher=local", "-s"], timeout=1500)

    assert session.section("short test summary info") == "PASSED test_sum.py::test_sum\n"
    said = re.findall(r"\[rank (\d) on node(\d)\] sum (\d+)$", session.output, re.MULTILINE)
    assert sorted(said) == [(str(rank), str(rank), "255") for rank in range(8)]
    times = [json.loads(file.read_text()) for file in tmp_path.glob("agent_*.json")]
    assert len(times) == 8
    assert max(began for began, _ in times) < min(up for _, up in times)


def test_workers_of_xdist(inner_session):
    """Protects: each worker has agents on all nodes, and --ds-world-size counts all ranks."""
    session = inner_session(
        """
        import os
        from pathlib import Path
        import pytest, torch, torch.distributed as dist

        @pytest.mark.world_size(2)
        @pytest.mark.parametrize("n", [0, 1])
        def test_four(rank, node_rank, world_size, n):
            total = torch.ones(1)
            dist.all_reduce(total)
            assert (world_size, total.item(), node_rank) == (4, 4, rank // 2)
            worker = os.environ["PYTEST_XDIST_WORKER"]
            Path(f"agent_{worker}_{node_rank}_{os.getppid()}").touch()
        """,
        args=[*TWO_NODES, "-n2", "--dist=each", "--ds-world-size=4"],
        timeout=1500,
    )

    # Each of two tests on each of two workers.
    assert session.section("short test summary info").count("PASSED test_four.py::test_four[") == 4
    agents = sorted(file.name.split("_")[1:] for file in session.folder.glob("agent_*"))
    places = [[worker, node] for worker in ("gw0", "gw1") for node in ("0", "1")]
    assert [place for *place, _ in agents] == places
    assert len({pid for *_, pid in agents}) == 4


NEEDS_NODES = """
    import pytest

    @pytest.mark.multinode
    def test_needs_two():
        pass

    @pytest.mark.multinode(3)
    @pytest.mark.world_size(3)
    def test_needs_three():
        pass
"""

WHY = (
    "needs {0} nodes and has 1: pytest --ds-nodes={0} in a Slurm job, or with --ds-launcher=local"
    " to emulate them"
)


def test_multinode_without_nodes(inner_session):
    """Protects: on one machine such tests are skipped, and the reason says what to type."""
    session = inner_session(NEEDS_NODES)

    assert session.section("short test summary info").splitlines() == [
        f"SKIPPED [1] test_needs_two.py:3: {WHY.format(2)}",
        f"SKIPPED [1] test_needs_two.py:7: {WHY.format(3)}",
    ]


def test_multinode_required(inner_session):
    """Protects: with --ds-require=slurm nothing is passed over in silence."""
    session = inner_session(NEEDS_NODES, args=["--ds-require=slurm"])

    assert session.status == 1
    assert session.failures(session.folder / "test_needs_two.py") == {
        f"ERROR at setup of test_needs_{name}": f"--ds-require=slurm: {WHY.format(n)}\n"
        for name, n in (("two", 2), ("three", 3))
    }
