"""How a world is cut into blocks for nodes."""

import pytest

from pytest_deepspeed.values.world import Place, spread

NODES = ["n1", "n2", "n3"]


def test_five_ranks_on_two_nodes():
    """Protects: the larger block comes first, and each place says where its ranks stand."""
    first, second = spread(5, NODES[:2])

    assert first == Place("n1", node_rank=0, num_nodes=2, first_rank=0, local_world_size=3)
    assert second == Place("n2", node_rank=1, num_nodes=2, first_rank=3, local_world_size=2)
    assert [list(place.ranks) for place in (first, second)] == [[0, 1, 2], [3, 4]]


def test_fewer_ranks_than_nodes():
    """Protects: a small world is on the first nodes, one rank on each, and knows of no other."""
    assert [(p.node, p.num_nodes, list(p.ranks)) for p in spread(2, NODES)] == [
        ("n1", 2, [0]),
        ("n2", 2, [1]),
    ]


@pytest.mark.parametrize("nodes", range(1, 10))
@pytest.mark.parametrize("world_size", [1, 2, 7, 8, 9, 256])
def test_every_rank_has_one_place(world_size, nodes):
    """Protects: no rank is lost or doubled, and no node has two ranks more than another."""
    places = spread(world_size, [f"n{i}" for i in range(nodes)])

    assert [rank for place in places for rank in place.ranks] == list(range(world_size))
    sizes = [place.local_world_size for place in places]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    assert [place.node_rank for place in places] == list(range(len(places)))
    assert {place.num_nodes for place in places} == {len(places)} == {min(world_size, nodes)}
