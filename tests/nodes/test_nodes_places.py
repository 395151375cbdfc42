"""Ranks over nodes: what each is told of its place, and that they reach each other."""

import itertools
import json

import pytest

PLACES = """
    import json, os
    from pathlib import Path
    import pytest, torch, torch.distributed as dist

    @pytest.mark.world_size([1, 2, 3, 4])
    def test_places(rank, local_rank, node_rank, world_size, tmp_path):
        total = torch.tensor([2.0 ** rank])
        dist.all_reduce(total)
        names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE LOCAL_SIZE"
        told = {name: int(os.environ[name]) for name in names.split()}
        told["fixtures"] = [rank, local_rank, node_rank, world_size]
        told["sum"] = total.item()
        told["meet"] = os.environ["MASTER_ADDR"] + ":" + os.environ["MASTER_PORT"]
        told["interface"] = os.environ.get("GLOO_SOCKET_IFNAME")
        told["tmp_path"] = str(tmp_path)
        told["agent"] = os.getppid()
        Path(f"place_{world_size}_{rank}.json").write_text(json.dumps(told))
"""

#: Ranks on each node that has some.
BLOCKS = {1: [1], 2: [1, 1], 3: [2, 1], 4: [2, 2]}


@pytest.fixture
def told(over_nodes, request):
    """What each rank of a world wrote down, in rank order."""
    size = request.node.callspec.params["size"]
    assert f"PASSED test_places.py::test_places[world_size_{size}]" in over_nodes.summary
    files = [over_nodes.session.folder / f"place_{size}_{rank}.json" for rank in range(size)]
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.over_nodes(PLACES)
@pytest.mark.parametrize("size", BLOCKS)
def test_what_each_rank_is_told(told, size):
    """Protects: torchrun's variables and the fixtures, in blocks of which the first are larger."""
    blocks = BLOCKS[size]
    expected = [
        {
            "RANK": sum(blocks[:node]) + local,
            "WORLD_SIZE": size,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": blocks[node],
            "GROUP_RANK": node,
            "GROUP_WORLD_SIZE": len(blocks),
            "LOCAL_SIZE": blocks[node],
            "fixtures": [sum(blocks[:node]) + local, local, node, size],
        }
        for node in range(len(blocks))
        for local in range(blocks[node])
    ]

    assert [{name: one[name] for name in expected[0]} for one in told] == expected


@pytest.mark.over_nodes(PLACES)
@pytest.mark.parametrize("size", BLOCKS)
def test_ranks_of_all_nodes_are_one_world(told, size):
    """Protects: they meet at one store, share one tmp_path, reduce over all; a node is an agent."""
    assert {one["sum"] for one in told} == {2.0**size - 1}
    assert len({one["meet"] for one in told}) == 1
    assert len({one["tmp_path"] for one in told}) == 1
    agents = [agent for agent, _ in itertools.groupby(told, key=lambda one: one["agent"])]
    assert len(agents) == len(set(agents)) == len(BLOCKS[size])
    # On one machine the loopback leads to the other nodes.
    assert {one["meet"].rpartition(":")[0] for one in told} == {"127.0.0.1"}
    assert {one["interface"] for one in told} == {None}


@pytest.mark.over_nodes(
    """
    import os, time
    from pathlib import Path
    import pytest
    from torch.distributed.distributed_c10d import _get_default_store

    @pytest.mark.world_size(2)
    def test_a_late_rank(rank):
        pid = Path("rank_0_of_a_late_rank")
        if rank == 0:
            pid.with_suffix(".new").write_text(str(os.getpid()))
            pid.with_suffix(".new").rename(pid)
            return
        while not pid.exists() or Path("/proc", pid.read_text()).exists():
            time.sleep(0.01)
        for i in range(20):
            time.sleep(0.1)
            _get_default_store().set(f"{i}", f"{i}")
            assert _get_default_store().get(f"{i}") == f"{i}".encode()
    """
)
def test_the_store_outlives_the_ranks_of_its_node(over_nodes):
    """Protects: the node that serves the store, and is done first, ends it when all nodes are."""
    assert over_nodes.summary == ["PASSED test_a_late_rank.py::test_a_late_rank"]


@pytest.mark.over_nodes(PLACES)
def test_the_header_names_the_nodes(over_nodes):
    """Protects: nobody takes emulated nodes for real ones."""
    lines = over_nodes.session.output.splitlines()[:8]

    assert "deepspeed: nodes=2, launcher=local" in lines
    assert "nodes: node0, node1 (emulated on this machine)" in lines


@pytest.mark.over_nodes(
    """
    import os
    import pytest, torch, torch.distributed as dist

    def place(rank, local_rank, world_size):
        total = torch.ones(1)
        dist.all_reduce(total)
        return rank, local_rank, world_size, int(os.environ["GROUP_RANK"]), int(total)

    def fails(rank):
        dist.barrier()
        assert rank == 0, "not here"
        dist.barrier()

    def test_ds_run_on_all(ds_run):
        assert ds_run(place, world_size=3) == [(0, 0, 3, 0, 3), (1, 1, 3, 0, 3), (2, 0, 3, 1, 3)]

    def test_ds_run_on_one(ds_run):
        assert ds_run(place, world_size=2, nodes=1) == [(0, 0, 2, 0, 2), (1, 1, 2, 0, 2)]

    def test_ds_run_fails(ds_run):
        with pytest.raises(Exception, match="rank 1 on node1: AssertionError: not here") as caught:
            ds_run(fails, world_size=2)
        text = str(caught.value)
        assert "\\nrank 0 on node0: aborted in call" in text
        assert "\\nrank 1 on node1: failed first, in call\\n" in text

    def test_ds_run_fails_on_one(ds_run):
        with pytest.raises(Exception, match="rank 1 on node0: AssertionError: not here"):
            ds_run(fails, world_size=2, nodes=1)
    """
)
def test_worlds_of_ds_run(over_nodes):
    """Protects: `ds_run` uses all nodes, or as many as it is told, and its failures name them."""
    assert over_nodes.summary == [
        f"PASSED test_ds_run_on_all.py::test_ds_run_{name}"
        for name in ("on_all", "on_one", "fails", "fails_on_one")
    ]


@pytest.mark.over_nodes(
    """
    import pytest

    @pytest.mark.multinode
    @pytest.mark.world_size(2)
    def test_two_nodes(node_rank, rank):
        assert node_rank == rank

    @pytest.mark.multinode(3)
    @pytest.mark.world_size(3)
    def test_three_nodes(rank):
        pass

    @pytest.mark.multinode(n=3)
    def test_three_nodes_of_the_controller(ds_run):
        pass
    """
)
def test_multinode(over_nodes):
    """Protects: a test that needs as many nodes as there are runs, one for more is skipped."""
    skipped = "\n".join(line for line in over_nodes.summary if line.startswith("SKIPPED"))
    passed = [line for line in over_nodes.summary if line.startswith("PASSED")]

    assert passed == ["PASSED test_two_nodes.py::test_two_nodes"]
    why = "needs 3 nodes and has 2: pytest --ds-nodes=3 in a Slurm job, or with"
    assert skipped.splitlines() == [
        f"SKIPPED [1] test_two_nodes.py:{line}: {why} --ds-launcher=local to emulate them"
        for line in (8, 13)
    ]
