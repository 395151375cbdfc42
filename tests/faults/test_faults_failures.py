# ruff: noqa: E501 (messages are compared as they are shown)
"""A test that fails on some ranks: the first failure is shown as pytest shows any."""

import re

import pytest
from inner import text


@pytest.mark.inner(
    """
    import pytest, torch, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_assert(rank):
        dist.barrier()
        total = torch.tensor([1.0, 2.0])
        if rank == 1:
            assert total.sum().item() == rank + 1, "the sum is wrong"
        dist.barrier()
    """
)
def test_an_assertion_while_the_peer_waits(shown):
    """The failed assertion comes with its values, at once, though the peer waits in a barrier."""
    assert shown.failure == text(
        """
        test_assert

        rank = 1

            @pytest.mark.world_size(2)
            def test_assert(rank):
                dist.barrier()
                total = torch.tensor([1.0, 2.0])
                if rank == 1:
        >           assert total.sum().item() == rank + 1, "the sum is wrong"
        E           AssertionError: the sum is wrong
        E           assert 3.0 == (1 + 1)
        E            +  where 3.0 = <built-in method item of Tensor object at 0xN>()
        E            +    where <built-in method item of Tensor object at 0xN> = tensor(3.).item
        E            +      where tensor(3.) = <built-in method sum of Tensor object at 0xN>()
        E            +        where <built-in method sum of Tensor object at 0xN> = tensor([1., 2.]).sum

        test_assert.py:8: AssertionError
        ------------------------------------ ranks -------------------------------------
        rank 0: aborted in call, N ms later: it lost the connection to a peer
        rank 1: failed first, in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_assert.py::test_assert --ds-seed=0
        """
    )
    assert shown.summary == [
        "FAILED test_assert.py::test_assert - rank 1: AssertionError: the sum is wrong"
    ]
    assert shown.seconds < 10, "the peer's barrier would have lasted until the budget of 60 s"


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    def compare(config):
        assert config == {"stage": 3, "offload": {"device": "cpu"}, "dtype": "bf16"}

    @pytest.mark.world_size(2)
    def test_deeper(rank):
        dist.barrier()
        compare({"stage": 3 - rank, "offload": {"device": "cpu"}, "dtype": "bf16"})
    """
)
def test_a_deeper_assertion_with_a_diff(shown):
    """A helper's assertion has pytest's diff of the two dicts and both places."""
    assert shown.failure == text(
        """
        test_deeper

        rank = 1

            @pytest.mark.world_size(2)
            def test_deeper(rank):
                dist.barrier()
        >       compare({"stage": 3 - rank, "offload": {"device": "cpu"}, "dtype": "bf16"})

        test_deeper.py:9:
        _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

        config = {'stage': 2, 'offload': {'device': 'cpu'}, 'dtype': 'bf16'}

            def compare(config):
        >       assert config == {"stage": 3, "offload": {"device": "cpu"}, "dtype": "bf16"}
        E       AssertionError: assert {'stage': 2, ...type': 'bf16'} == {'stage': 3, ...type': 'bf16'}
        E
        E         Omitting 2 identical items, use -vv to show
        E         Differing items:
        E         {'stage': 2} != {'stage': 3}
        E         Use -v to get more diff

        test_deeper.py:4: AssertionError
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: failed first, in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_deeper.py::test_deeper --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import time, pytest, torch.distributed as dist

    @pytest.mark.world_size(3)
    def test_late(rank):
        dist.barrier()
        assert rank != 1
        ends = time.monotonic() + 2.5
        while rank == 0 and time.monotonic() < ends:
            pass
        time.sleep(0 if rank == 0 else 60)
        raise ValueError("late")
    """
)
def test_a_peer_that_computes_gets_longer(shown):
    """A busy peer is heard out, one that only waits has its second, though not less than the busy."""
    assert re.search(
        r"^rank 0: aborted in call, N ms later: ValueError: late\n"
        r"rank 1: failed first, in call\n"
        r"rank 2: aborted in call: killed [23] s after the first failure$",
        shown.failure,
        re.MULTILINE,
    )


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(3)
    def test_both(rank):
        dist.barrier()
        assert rank == 1
        dist.barrier()
    """
)
def test_two_ranks_fail_at_once(shown):
    """One failure is shown in full, the other in one line; which comes first is the ranks' race."""
    first = 0 if "rank 0: failed first" in shown.failure else 2
    other = 2 - first
    fates = {
        first: f"rank {first}: failed first, in call",
        other: f"rank {other}: aborted in call, N ms later: assert {other} == 1",
    }
    assert shown.failure == text(
        f"""
        test_both

        rank = {first}

            @pytest.mark.world_size(3)
            def test_both(rank):
                dist.barrier()
        >       assert rank == 1
        E       assert {first} == 1

        test_both.py:6: AssertionError
        ------------------------------------ ranks -------------------------------------
        {fates[0]}
        rank 1: aborted in call, N ms later: it lost the connection to a peer
        {fates[2]}

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=3 -m pytest_deepspeed test_both.py::test_both --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.fixture
    def partition(rank):
        dist.barrier()
        if rank == 1:
            raise ValueError("no partition for rank 1")

    @pytest.mark.world_size(2)
    def test_fixture(partition):
        dist.barrier()
    """
)
def test_a_fixture_fails_on_one_rank(shown):
    """A fixture that fails on one rank only is pytest's error at set-up, with the fixture's code."""
    assert shown.failure == text(
        """
        ERROR at setup of test_fixture

        rank = 1

            @pytest.fixture
            def partition(rank):
                dist.barrier()
                if rank == 1:
        >           raise ValueError("no partition for rank 1")
        E           ValueError: no partition for rank 1

        test_fixture.py:7: ValueError
        ------------------------------------ ranks -------------------------------------
        rank 0: aborted in call, N ms later: it lost the connection to a peer
        rank 1: failed first, in setup

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_fixture.py::test_fixture --ds-seed=0
        """
    )
    assert shown.summary == [
        "ERROR test_fixture.py::test_fixture - rank 1: ValueError: no partition for ra..."
    ]


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.fixture
    def checkpoint(rank):
        yield
        assert rank == 0, "cannot close the checkpoint"

    @pytest.mark.world_size(2)
    def test_teardown(checkpoint):
        dist.barrier()
    """
)
def test_teardown_fails_on_one_rank(shown):
    """A body that passed stays passed, and the teardown that failed on one rank is an error."""
    assert shown.failure == text(
        """
        ERROR at teardown of test_teardown

        rank = 1

            @pytest.fixture
            def checkpoint(rank):
                yield
        >       assert rank == 0, "cannot close the checkpoint"
        E       AssertionError: cannot close the checkpoint
        E       assert 1 == 0

        test_teardown.py:6: AssertionError
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: failed first, in teardown

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_teardown.py::test_teardown --ds-seed=0
        """
    )
    assert shown.summary == [
        "ERROR test_teardown.py::test_teardown - rank 1: AssertionError: cannot close ...",
        "PASSED test_teardown.py::test_teardown",
    ]


@pytest.mark.inner(
    """
    import pytest

    @pytest.mark.world_size(2)
    def test_long_text(rank):
        text = ("y" * 99 + "\\n") * 2000
        if rank == 1:
            raise AssertionError(text + "end")
    """
)
def test_a_failure_text_of_200_kilobytes(shown):
    """A long failure text arrives whole: it fits no pipe buffer, and the rank that says it exits."""
    kept = re.sub(r"(E +y{99}\n){1999}", "", shown.failure)
    assert len(shown.failure) - len(kept) == 1999 * len(f"E           {'y' * 99}\n")
    assert kept == text(
        f"""
        test_long_text

        rank = 1

            @pytest.mark.world_size(2)
            def test_long_text(rank):
                text = ("y" * 99 + "\\n") * 2000
                if rank == 1:
        >           raise AssertionError(text + "end")
        E           AssertionError: {"y" * 99}
        E           end

        test_long_text.py:7: AssertionError
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: failed first, in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_long_text.py::test_long_text --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import sys
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_flood(rank):
        print("start of", rank)
        print("x" * 99 + "\\n" * (rank == 2), file=sys.stderr)
        if rank == 1:
            for line in range(30_000):
                print(f"{line:099d}")
        dist.barrier()
        assert rank == 0
    """
)
def test_a_flood_of_output(shown):
    """Of 3 MB of output the last MiB is shown, and how much was left out is said."""
    *_, stdout, _stderr = re.split(r"^-+ Captured (.+) -+\n", shown.failure, flags=re.MULTILINE)[
        2::2
    ]
    cut, *lines = stdout.splitlines()
    assert lines == [f"{line:099d}" for line in range(30_000 - len(lines), 30_000)]
    assert cut == f"[{3_000_000 + len('start of 1') + 1 - 100 * len(lines)} bytes left out]"
    assert len(lines) == 2**20 // 100
