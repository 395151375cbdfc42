"""Who gets which cores or GPUs, and when: eight GPUs that are only names."""

import random

import pytest

from pytest_deepspeed.values.board import Board

EIGHT = [str(gpu) for gpu in range(8)]


@pytest.fixture
def board():
    """Eight GPUs, all free."""
    return Board(EIGHT)


def ask(board, **counts):
    """Each owner asks for as many, in this order."""
    for owner, count in counts.items():
        board.ask(owner, count)


def test_worlds_of_different_sizes_side_by_side(board):
    """Protects: 4, 2 and 2 ranks run at once on disjoint GPUs, each on neighbours."""
    ask(board, a=4, b=2, c=2)

    assert board.grant("a") == ["0", "1", "2", "3"]
    assert board.grant("b") == ["4", "5"]
    assert board.grant("c") == ["6", "7"]


def test_all_or_nothing(board):
    """Protects: a world that does not fit holds nothing while it waits."""
    ask(board, a=6, b=4)
    board.grant("a")

    assert board.grant("b") is None
    assert board.held.keys() == {"a"}
    board.leave("a")
    assert board.grant("b") == ["0", "1", "2", "3"]


def test_larger_than_the_machine_runs_alone(board):
    """Protects: sixteen ranks take all eight, once all are free."""
    ask(board, a=2, b=16)
    board.grant("a")

    assert board.grant("b") is None
    board.leave("a")
    assert board.grant("b") == EIGHT


def test_a_large_world_is_not_starved(board):
    """Protects: two ranks overtake eight that wait, but only as often as there are GPUs."""
    ask(board, first=2, large=8)
    board.grant("first")
    overtook = 0
    for turn in range(20):
        owner = f"small{turn}"
        board.ask(owner, 2)
        if board.grant(owner) is None:
            break
        overtook += 1
        board.leave(owner)

    assert overtook == 8
    board.leave("first")
    assert board.grant("large") == EIGHT


def test_who_leaves_the_queue_blocks_nobody(board):
    """Protects: a worker that died while it waited is forgotten."""
    ask(board, first=1, large=8)
    board.grant("first")
    for turn in range(8):
        board.ask(str(turn), 1)
        board.grant(str(turn))
        board.leave(str(turn))
    board.ask("next", 1)

    assert board.grant("next") is None
    board.leave("large")
    assert board.grant("next") == ["1"]


def test_a_board_is_handed_on(board):
    """Protects: another process goes on where this one left off."""
    ask(board, a=6, b=4)
    board.grant("a")
    other = Board(EIGHT, **board.as_json())

    assert other.owners == {"a", "b"}
    assert other.grant("b") is None
    other.leave("a")
    assert other.grant("b") == ["0", "1", "2", "3"]


@pytest.mark.parametrize("seed", range(20))
def test_eight_workers_on_eight_gpus(seed):
    """Protects: whatever worlds eight workers run, no GPU has two, and each gets its turn.

    No GPU is used; this is the plan alone.
    """
    chance = random.Random(seed)
    board = Board(EIGHT)
    todo = {f"worker{n}": [chance.choice([1, 2, 3, 4, 8, 16]) for _ in range(12)] for n in range(8)}
    waits, ends, now, last = {}, {}, 0, 0
    while any(todo.values()) or waits or ends:
        now += 1
        for owner in [owner for owner, end in ends.items() if end <= now]:
            board.leave(owner)
            del ends[owner]
        for owner in chance.sample(sorted(todo), len(todo)):
            if owner not in waits and owner not in ends and todo[owner]:
                waits[owner] = todo[owner].pop()
                board.ask(owner, waits[owner])
            if owner in waits and (slots := board.grant(owner)) is not None:
                assert len(slots) == min(waits.pop(owner), 8)
                ends[owner], last = now + chance.randint(1, 9), now
        held = [slot for slots in board.held.values() for slot in slots]
        assert len(held) == len(set(held))
        assert now - last < 20, "nobody gets anything"
