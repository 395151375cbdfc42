# ruff: noqa: E501 (messages are compared as they are shown)
"""A test over two nodes that fails: the same text as on one, with the names of the nodes."""

import pytest
from inner import text
from nodes_lines import captured, fates, repeat


@pytest.mark.over_nodes(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("bad", [0, 1])
    def test_assert(rank, bad):
        dist.barrier()
        print("said by", rank)
        assert rank != bad, "the sum is wrong"
        dist.barrier()
    """
)
def test_an_assertion_on_either_node(failures, over_nodes):
    """Protects: values, fates, output and summary of an assertion, whichever node it failed on."""
    assert failures == {
        f"test_assert[{bad}]": "\n"
        + text(
            f"""
            rank = {bad}, bad = {bad}

                @pytest.mark.world_size(2)
                @pytest.mark.parametrize("bad", [0, 1])
                def test_assert(rank, bad):
                    dist.barrier()
                    print("said by", rank)
            >       assert rank != bad, "the sum is wrong"
            E       AssertionError: the sum is wrong
            E       assert {bad} != {bad}

            test_assert.py:8: AssertionError
            """
        )
        + fates(*("failed first, in call" if r == bad else "aborted in call" for r in (0, 1)))
        + repeat(f"test_assert.py::test_assert[{bad}]")
        + captured(0, "said by 0")
        + captured(1, "said by 1")
        for bad in (0, 1)
    }
    assert over_nodes.summary == [
        f"FAILED test_assert.py::test_assert[{bad}] - rank {bad} on node{bad}: AssertionError: the ..."
        for bad in (0, 1)
    ]


@pytest.mark.over_nodes(
    """
    import pytest, torch.distributed as dist

    @pytest.fixture
    def partition(rank):
        dist.barrier()
        if rank == 1:
            raise ValueError("no partition for rank 1")

    @pytest.fixture
    def checkpoint(rank):
        yield
        assert rank == 0, "cannot close the checkpoint"

    @pytest.mark.world_size(2)
    def test_set_up(partition):
        dist.barrier()

    @pytest.mark.world_size(2)
    def test_tear_down(checkpoint):
        dist.barrier()
    """
)
def test_fixtures_on_the_second_node(failures, over_nodes):
    """Protects: set-up and teardown that fail on the second node are errors of their phase."""
    assert failures == {
        "ERROR at setup of test_set_up": "\n"
        + text(
            """
            rank = 1

                @pytest.fixture
                def partition(rank):
                    dist.barrier()
                    if rank == 1:
            >           raise ValueError("no partition for rank 1")
            E           ValueError: no partition for rank 1

            test_set_up.py:7: ValueError
            """
        )
        + fates("aborted in call", "failed first, in setup")
        + repeat("test_set_up.py::test_set_up"),
        "ERROR at teardown of test_tear_down": "\n"
        + text(
            """
            rank = 1

                @pytest.fixture
                def checkpoint(rank):
                    yield
            >       assert rank == 0, "cannot close the checkpoint"
            E       AssertionError: cannot close the checkpoint
            E       assert 1 == 0

            test_set_up.py:12: AssertionError
            """
        )
        + fates("passed", "failed first, in teardown")
        + repeat("test_set_up.py::test_tear_down"),
    }
    assert over_nodes.summary == [
        "ERROR test_set_up.py::test_set_up - rank 1 on node1: ValueError: no partition...",
        "ERROR test_set_up.py::test_tear_down - rank 1 on node1: AssertionError: canno...",
        "PASSED test_set_up.py::test_tear_down",
    ]


@pytest.mark.over_nodes(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_all_skip():
        pytest.skip("no NVMe")

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("skips", [0, 1])
    def test_one_skips(rank, skips):
        if rank == skips:
            pytest.skip("no NVMe")

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("bad", [0, 1])
    @pytest.mark.xfail(reason="a known bug")
    def test_expected(rank, bad):
        dist.barrier()
        assert rank != bad
        dist.barrier()
    """
)
def test_skips_and_expected_failures(failures, over_nodes):
    """Protects: all ranks skip or none, and an expected failure is one on either node."""
    assert failures == {
        f"test_one_skips[{skips}]": (
            f"E   rank {skips} on node{skips} skipped (no NVMe) and rank {1 - skips} on"
            f" node{1 - skips} did not: all ranks must skip, or none\n"
        )
        + fates(*(("skipped", "passed") if skips == 0 else ("passed", "skipped")))
        + repeat(f"test_all_skip.py::test_one_skips[{skips}]")
        for skips in (0, 1)
    }
    assert [line for line in over_nodes.summary if not line.startswith("FAILED")] == [
        "SKIPPED [1] test_all_skip.py:5: no NVMe",
        "XFAIL test_all_skip.py::test_expected[0] - a known bug",
        "XFAIL test_all_skip.py::test_expected[1] - a known bug",
    ]


@pytest.mark.over_nodes(
    """
    import time
    import pytest, torch, torch.distributed as dist

    @pytest.mark.world_size(3)
    @pytest.mark.ds_timeout(2)
    def test_hang(rank):
        dist.all_reduce(torch.ones(2))
        if rank == 2:
            time.sleep(600)
        dist.all_reduce(torch.ones(3 + rank))
    """
)
def test_a_hang_over_both_nodes(failures):
    """Protects: the stacks and collectives of the ranks of all nodes, and where they diverged."""
    stack = text(
        """
        Current thread 0xN (most recent call first):
          torch/distributed/distributed_c10d.py:N in all_reduce
            work.wait()
          torch/distributed/c10d_logger.py:N in wrapper
            return func(*args, **kwargs)
          DIR/test_hang.py:10 in test_hang
            dist.all_reduce(torch.ones(3 + rank))
          (N frames of pytest and pytest-deepspeed)
        """
    )
    shown = text(
        """
        E   hang: 3 ranks of 3 (0 on node0, 1 on node0, 2 on node1) had not ended the body after 2 s (--ds-timeout allows more)
        - rank 0 on node0: last collective allreduce of (3,) float32, number 2 of group 0 -
        STACK- rank 1 on node0: last collective allreduce of (4,) float32, number 2 of group 0 -
        STACK- rank 2 on node1: last collective allreduce of (2,) float32, number 1 of group 0 -
        Current thread 0xN (most recent call first):
          DIR/test_hang.py:9 in test_hang
            time.sleep(600)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0 on node0: was still in call
        rank 1 on node0: was still in call
        rank 2 on node1: was still in call
        first divergence: group 0, collective 2: rank 0 is in allreduce of (3,) float32; rank 1 is in allreduce of (4,) float32; rank 2 never came
        """
    )
    assert failures == {
        "test_hang": shown.replace("STACK", stack) + repeat("test_hang.py::test_hang", 3)
    }


@pytest.mark.over_nodes(
    """
    import time
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_timeout(1)
    @pytest.mark.parametrize("stuck", [0, 1])
    def test_stuck(rank, stuck):
        if rank == stuck:
            time.sleep(600)
    """
)
def test_a_deadline_met_by_either_node(failures):
    """Protects: a budget that runs out where the other node has already ended."""
    ended = "no stack: it had ended (exited with code 0)\n"
    sleeps = text(
        """
        Current thread 0xN (most recent call first):
          DIR/test_stuck.py:9 in test_stuck
            time.sleep(600)
          (N frames of pytest and pytest-deepspeed)
        """
    )
    heads = [f"{f' rank {r} on node{r}: no collective yet ':-^80}\n" for r in (0, 1)]
    assert failures == {
        f"test_stuck[{stuck}]": (
            f"E   hang: 1 rank of 2 ({stuck} on node{stuck}) had not ended the body after 1 s"
            " (--ds-timeout allows more)\n"
        )
        + "".join(heads[r] + (sleeps if r == stuck else ended) for r in (0, 1))
        + fates(*("was still in call" if r == stuck else "passed" for r in (0, 1)))
        + repeat(f"test_stuck.py::test_stuck[{stuck}]")
        for stuck in (0, 1)
    }
