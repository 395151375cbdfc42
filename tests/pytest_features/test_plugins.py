"""Plugins that people combine with this one: what each does on ranks."""

import inner


def lines(session, *names):
    """Outcome of each test, by ``-v``."""
    found = {}
    for name in names:
        for word in ("PASSED", "FAILED", "ERROR", "RERUN", "SKIPPED", "XFAIL"):
            for line in session.output.splitlines():
                if f"::{name} {word}" in line:
                    found.setdefault(name, []).append(word)
    return found


def test_pytest_cov_sees_what_only_ranks_execute(inner_session, tmp_path):
    """Protects: ``--cov`` counts lines that run on ranks, and those of each rank."""
    tmp_path.joinpath("body.py").write_text(
        "def branches(rank):\n    if rank == 1:\n        x = 1\n    else:\n        x = 2\n"
        "    return x\n\n\ndef never():\n    return 3\n"
    )
    session = inner_session(
        """
        import pytest
        import body

        @pytest.mark.world_size(2)
        def test_covered(rank):
            assert body.branches(rank)
        """,
        args=["--cov=body", "--cov-report=term-missing"],
    )

    assert session.status == 0
    assert [line.split() for line in session.output.splitlines() if line.startswith("body.py")] == [
        ["body.py", "7", "1", "86%", "10"]
    ]


def test_pytest_timeout_ends_the_test_with_stacks(inner_session):
    """Protects: pytest-timeout's limit ends the world and shows what each rank was in."""
    session = inner_session(
        """
        import time
        import pytest

        @pytest.mark.world_size(2)
        def test_before(rank):
            pass  # the agent has started, which is not to count below

        @pytest.mark.world_size(2)
        @pytest.mark.timeout(10)
        def test_slow(rank):
            time.sleep(120)

        @pytest.mark.world_size(2)
        def test_next(rank):
            pass
        """,
        args=["-v"],
    )

    assert lines(session, "test_slow", "test_next") in (
        {"test_slow": ["FAILED"], "test_next": ["PASSED"]},
        {"test_slow": ["ERROR"], "test_next": ["PASSED"]},
    )
    assert "Timeout (>10.0s) from pytest-timeout" in session.output
    assert "rank 0 was in:" in session.output
    assert "time.sleep(120)" in session.output


def test_rerunfailures_runs_on_fresh_ranks(inner_session, tmp_path):
    """Protects: ``--reruns`` repeats a failed test on a new world."""
    session = inner_session(
        """
        import os
        import pytest

        @pytest.mark.world_size(2)
        def test_flaky(rank):
            marker = f"was_here_{rank}"
            first = not os.path.exists(marker)
            open(marker, "w").close()
            assert not first
        """,
        args=["--reruns=1", "-v"],
    )

    assert session.status == 0
    assert "1 passed, 1 rerun" in session.output


def test_other_plugins(inner_session, monkeypatch):
    """Protects: all ranks draw the same under pytest-randomly and hypothesis; asyncio runs."""
    monkeypatch.setattr(inner, "_INI", "[pytest]\nasyncio_mode = auto\n")
    session = inner_session(
        """
        import random
        import pytest
        import torch.distributed as dist

        @pytest.mark.world_size(2)
        def test_randomly(rank):
            drawn = [None, None]
            dist.all_gather_object(drawn, random.random())
            assert drawn[0] == drawn[1]
        """,
        """
        import pytest
        import torch.distributed as dist
        from hypothesis import given, settings, strategies

        @pytest.mark.world_size(2)
        @settings(derandomize=True, database=None, deadline=None, max_examples=20)
        @given(strategies.integers())
        def test_hypothesis(n):
            drawn = [None, None]
            dist.all_gather_object(drawn, n)
            assert drawn[0] == drawn[1]
        """,
        """
        import asyncio
        import pytest
        import torch.distributed as dist

        @pytest.mark.world_size(2)
        async def test_asyncio(rank):
            await asyncio.sleep(0)
            dist.barrier()
        """,
        args=["-v"],
    )

    assert session.status == 0, session.output
    names = ("test_randomly", "test_hypothesis", "test_asyncio")
    assert lines(session, *names) == {name: ["PASSED"] for name in names}
