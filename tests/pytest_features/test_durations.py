"""``--durations`` says where the time of tests on ranks went."""

import re

import inner
import pytest

SLOW = """
    import time

    import pytest
    import torch.distributed as dist

    @pytest.fixture
    def slow():
        time.sleep(0.4)
        yield
        time.sleep(0.2)

    @pytest.mark.world_size(2)
    def test_body(rank):
        time.sleep(0.7 * rank)

    @pytest.mark.world_size(2)
    def test_fixtures(slow):
        pass

    def test_plain():
        pass
"""


def shown(session):
    """The table: ``{test: {column: seconds}}``."""
    head, *rows = session.section("slowest tests on ranks, in seconds").splitlines()
    found = (row.split() for row in rows if "::" in row)
    return {row[-1]: dict(zip(head.split(), map(float, row[:-1]), strict=True)) for row in found}


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_where_the_time_went(tmp_path, workers):
    """Protects: each part of a test's time stands in its column, with and without workers."""
    session = inner.run(tmp_path, SLOW, args=("--durations=0", *workers))
    costs = shown(session)
    body, fixtures = costs["test_body.py::test_body"], costs["test_body.py::test_fixtures"]

    assert session.status == 0
    assert list(body) == [
        *("queued", "agent", "fork", "group", "fixtures", "body", "teardown", "end")
    ]
    assert costs.keys() == {"test_body.py::test_body", "test_body.py::test_fixtures"}
    assert body["body"] >= 0.7 > body["fixtures"] + body["teardown"]
    assert fixtures["fixtures"] >= 0.4
    assert fixtures["teardown"] >= 0.2 > fixtures["body"]
    assert max(body["agent"], fixtures["agent"]) > 0.5  # the first one waits for torch's import


def test_only_where_it_is_asked_for(tmp_path):
    """Protects: no table without the option, and no more rows than it says."""
    assert "slowest tests on ranks" not in inner.run(tmp_path, SLOW).output
    limited = inner.run(tmp_path, SLOW, args=("--durations=1",))

    assert len(shown(limited)) == 1
    assert re.search(r"^ +queued +agent", limited.output, re.MULTILINE)
