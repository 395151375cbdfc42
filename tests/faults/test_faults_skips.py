# ruff: noqa: E501 (messages are compared as they are shown)
"""Ranks that skip or fail as expected: agreed it is pytest's own outcome, divergent it is red."""

import pytest
from inner import text


@pytest.mark.inner(
    """
    import pytest

    @pytest.mark.world_size(2)
    def test_skip(rank):
        pytest.skip("no NVMe here")
    """
)
def test_both_ranks_skip(shown):
    """A skip of all ranks is one skip in the summary, with its place and its reason."""
    assert shown.summary == ["SKIPPED [1] test_skip.py:5: no NVMe here"]


@pytest.mark.inner(
    """
    import pytest

    @pytest.mark.world_size(2)
    def test_one_skips(rank):
        if rank == 0:
            pytest.skip("not on rank 0")
    """
)
def test_one_rank_skips_and_the_other_passes(shown):
    """A skip of one rank alone is red: the test did not run as one program."""
    assert shown.failure == text(
        """
        test_one_skips
        E   rank 0 skipped (not on rank 0) and rank 1 did not: all ranks must skip, or none
        ------------------------------------ ranks -------------------------------------
        rank 0: skipped
        rank 1: passed

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_one_skips.py::test_one_skips --ds-seed=0
        """
    )
    assert shown.summary == [
        "FAILED test_one_skips.py::test_one_skips - rank 0 skipped (not on rank 0) and..."
    ]


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_skip_and_wait(rank):
        dist.barrier()
        if rank == 0:
            pytest.skip("not on rank 0")
        dist.barrier()
    """
)
def test_one_rank_skips_while_the_other_waits(shown):
    """The rank that waits for the one that skipped is freed, and the skip is named as the cause."""
    assert shown.failure == text(
        """
        test_skip_and_wait
        E   rank 0 skipped (not on rank 0) and rank 1 did not: all ranks must skip, or none
        ------------------------------------ ranks -------------------------------------
        rank 0: skipped
        rank 1: aborted in call: it lost the connection to a peer

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_skip_and_wait.py::test_skip_and_wait --ds-seed=0
        """
    )
    assert shown.seconds < 10, "the peer's barrier would have lasted until the budget of 60 s"


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    @pytest.mark.xfail(reason="known bug of rank 1")
    def test_xfail(rank):
        dist.barrier()
        assert rank == 0
        dist.barrier()
    """
)
def test_an_expected_failure_while_the_peer_waits(shown):
    """An expected failure on one rank is an xfail of the test: its aborted peer has no vote."""
    assert shown.summary == ["XFAIL test_xfail.py::test_xfail - known bug of rank 1"]
    assert shown.seconds < 10, "the peer's barrier would have lasted until the budget of 60 s"


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    @pytest.mark.xfail(strict=True, reason="was fixed meanwhile")
    def test_strict_xpass():
        dist.barrier()
    """
)
def test_a_strict_xpass(shown):
    """A test that passes on all ranks though its strict mark expects a failure is red."""
    assert shown.failure == text(
        """
        test_strict_xpass
        E   rank 0: [XPASS(strict)] was fixed meanwhile
        ------------------------------------ ranks -------------------------------------
        rank 0: passed, though xfail was expected
        rank 1: passed, though xfail was expected

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_strict_xpass.py::test_strict_xpass --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    @pytest.mark.xfail(reason="was fixed meanwhile")
    def test_xpass():
        dist.barrier()
    """
)
def test_an_xpass(shown):
    """A test that passes on all ranks though a failure is expected is reported as XPASS."""
    assert shown.summary == ["XPASS test_xpass.py::test_xpass - was fixed meanwhile"]


@pytest.mark.inner(
    """
    import os, signal
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    @pytest.mark.xfail(reason="known bug of rank 1")
    def test_xfail_crash(rank):
        dist.barrier()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
    """
)
def test_a_crash_is_no_expected_failure(shown):
    """A crash stays red under an xfail mark: nobody expects a rank to be killed."""
    assert shown.failure == text(
        """
        test_xfail_crash
        E   rank 1 was killed by SIGKILL in call: not by pytest-deepspeed; the kernel's OOM killer is the usual sender (dmesg tells)
        ------------------------------------ ranks -------------------------------------
        rank 0: aborted in call, N ms later: it lost the connection to a peer
        rank 1: was killed by SIGKILL in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_xfail_crash.py::test_xfail_crash --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import time
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.xfail(reason="known bug of rank 1")
    @pytest.mark.ds_timeout(1)
    def test_xfail_hang(rank):
        if rank == 1:
            time.sleep(60)
    """
)
def test_a_hang_is_no_expected_failure(shown):
    """A hang stays red under an xfail mark."""
    assert shown.failure == text(
        """
        test_xfail_hang
        E   hang: 1 rank of 2 (1) had not ended the body after 1 s (--ds-timeout allows more)
        -------------------------- rank 0: no collective yet ---------------------------
        no stack: it had ended (exited with code 0)
        -------------------------- rank 1: no collective yet ---------------------------
        Current thread 0xN (most recent call first):
          DIR/test_xfail_hang.py:9 in test_xfail_hang
            time.sleep(60)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0: passed, though xfail was expected
        rank 1: was still in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_xfail_hang.py::test_xfail_hang --ds-seed=0
        """
    )
