"""Tests on ranks that took long come first where xdist has workers."""

import json
import re

import inner
import pytest

from pytest_deepspeed import scheduling

LONG = """
    import time

    import pytest

    @pytest.mark.parametrize("number", range(3))
    def test_plain(number):
        pass

    @pytest.mark.world_size(1)
    @pytest.mark.parametrize("seconds", [0, 1.1, 0.1, 2.1])
    def test_long(seconds):
        time.sleep(seconds)
"""


def order(folder, *args):
    """The tests of a session in the order in which they ran."""
    output = inner.run(folder, LONG, args=("-v", *args)).output
    lines = (line for line in output.splitlines() if "%]" in line)
    return [re.search(r"::(test_\S+)", line)[1] for line in lines]


def test_long_ones_first(tmp_path):
    """Protects: the second session of ``-n`` begins with what took longest in the first; all others
    keep their order, and so does a session without workers.
    """
    # One worker, since two end their tests in any order.
    first, second, alone = (order(tmp_path, *args) for args in (("-n", "1"), ("-n", "1"), ()))
    plain = [f"test_plain[{n}]" for n in range(3)]
    as_written = [*plain, *(f"test_long[{s}]" for s in (0, 1.1, 0.1, 2.1))]

    assert first == alone == as_written
    assert second == ["test_long[2.1]", "test_long[1.1]", *plain, "test_long[0]", "test_long[0.1]"]
    known = json.loads((tmp_path / ".pytest_cache/v/pytest_deepspeed/durations").read_text())
    assert list(known) == ["test_plain.py::test_long[1.1]", "test_plain.py::test_long[2.1]"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_worker_begins_with_a_long_one(workers):
    """Protects: of the long tests each worker has its share in the chunk that it begins with, none
    is lost, and the others stay in order.
    """
    long, rest = list("abcdef"), list(range(16 * workers - 6))
    order = scheduling.dealt(long, rest, workers)

    assert sorted(order, key=str) == sorted(long + rest, key=str)
    assert [test for test in order if test in rest] == rest
    begins = [order[4 * worker : 4 * worker + 4] for worker in range(workers)]
    assert [chunk[0] for chunk in begins] == long[:workers]


def test_more_long_ones_than_workers_begin_with():
    """Protects: what is left of the long ones is next."""
    order = scheduling.dealt(list("abcdefg"), [1, 2, 3], 2)

    assert order == ["a", "c", "b", "d", "e", "f", "g", 1, 2, 3]
