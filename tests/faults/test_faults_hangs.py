# ruff: noqa: E501 (messages are compared as they are shown)
"""A test whose ranks do not end: the stack of each, and which collective it is in."""

import re

import pytest
from inner import text


@pytest.mark.inner(
    """
    import time
    import pytest, torch, torch.distributed as dist

    @pytest.mark.world_size(3)
    @pytest.mark.ds_timeout(2)
    def test_collectives(rank):
        dist.all_reduce(torch.ones(2))
        if rank == 1:
            dist.all_reduce(torch.ones(3, dtype=torch.bfloat16))
        elif rank == 0:
            dist.barrier()
        else:
            time.sleep(60)
    """
)
def test_ranks_in_different_collectives(shown):
    """Each rank's stack and collective is shown, and the first one in which the ranks diverged."""
    assert shown.failure == text(
        """
        test_collectives
        E   hang: 3 ranks of 3 (0, 1, 2) had not ended the body after 2 s (--ds-timeout allows more)
        ------------- rank 0: last collective barrier, number 2 of group 0 -------------
        Current thread 0xN (most recent call first):
          torch/distributed/distributed_c10d.py:N in barrier
            work.wait()
          torch/distributed/c10d_logger.py:N in wrapper
            return func(*args, **kwargs)
          DIR/test_collectives.py:11 in test_collectives
            dist.barrier()
          (N frames of pytest and pytest-deepspeed)
        --- rank 1: last collective allreduce of (3,) bfloat16, number 2 of group 0 ----
        Current thread 0xN (most recent call first):
          torch/distributed/distributed_c10d.py:N in all_reduce
            work.wait()
          torch/distributed/c10d_logger.py:N in wrapper
            return func(*args, **kwargs)
          DIR/test_collectives.py:9 in test_collectives
            dist.all_reduce(torch.ones(3, dtype=torch.bfloat16))
          (N frames of pytest and pytest-deepspeed)
        ---- rank 2: last collective allreduce of (2,) float32, number 1 of group 0 ----
        Current thread 0xN (most recent call first):
          DIR/test_collectives.py:13 in test_collectives
            time.sleep(60)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0: was still in call
        rank 1: was still in call
        rank 2: was still in call
        first divergence: group 0, collective 2: rank 0 is in barrier; rank 1 is in allreduce of (3,) bfloat16; rank 2 never came

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=3 -m pytest_deepspeed test_collectives.py::test_collectives --ds-seed=0
        """
    )
    assert shown.summary == [
        "FAILED test_collectives.py::test_collectives - hang: 3 ranks of 3 (0, 1, 2) h..."
    ]


@pytest.mark.inner(
    """
    import time
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_timeout(1)
    def test_sleep(rank):
        if rank == 1:
            print("going to sleep")
            time.sleep(60)
    """
)
def test_a_rank_sleeps(shown):
    """A rank that sleeps is shown at its line, beside a peer that passed."""
    assert shown.failure == text(
        """
        test_sleep
        E   hang: 1 rank of 2 (1) had not ended the body after 1 s (--ds-timeout allows more)
        -------------------------- rank 0: no collective yet ---------------------------
        no stack: it had ended (exited with code 0)
        -------------------------- rank 1: no collective yet ---------------------------
        Current thread 0xN (most recent call first):
          DIR/test_sleep.py:9 in test_sleep
            time.sleep(60)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: was still in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_sleep.py::test_sleep --ds-seed=0
        --------------------------- Captured stdout [rank 1] ---------------------------
        going to sleep
        """
    )


@pytest.mark.inner(
    """
    import re
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_timeout(1)
    def test_native(rank):
        if rank == 1:
            re.match("(a+)+b", "a" * 60)
    """
)
def test_a_rank_holds_the_interpreter_lock(shown):
    """Native code that never gives the interpreter lock back is shown at its line, and is killed."""
    assert shown.failure == text(
        """
        test_native
        E   hang: 1 rank of 2 (1) had not ended the body after 1 s (--ds-timeout allows more)
        -------------------------- rank 0: no collective yet ---------------------------
        no stack: it had ended (exited with code 0)
        -------------------------- rank 1: no collective yet ---------------------------
        Current thread 0xN (most recent call first):
          python/re/__init__.py:N in match
            return _compile(pattern, flags).match(string)
          DIR/test_native.py:8 in test_native
            re.match("(a+)+b", "a" * 60)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: was still in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_native.py::test_native --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import os, signal
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_timeout(1)
    def test_stopped(rank):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
    """
)
def test_a_stopped_rank(shown):
    """A rank that cannot answer is told as such, with the kernel's word for its state."""
    assert shown.failure == text(
        """
        test_stopped
        E   hang: 1 rank of 2 (1) had not ended the body after 1 s (--ds-timeout allows more)
        -------------------------- rank 0: no collective yet ---------------------------
        no stack: it had ended (exited with code 0)
        -------------------------- rank 1: no collective yet ---------------------------
        no stack: the process did not answer SIGUSR1 within 0.5 s (state: T (stopped))
        ------------------------------------ ranks -------------------------------------
        rank 0: passed
        rank 1: was still in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_stopped.py::test_stopped --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import time
    import pytest

    @pytest.fixture(autouse=True)
    def slow(rank):
        if rank == 0:
            time.sleep(60)

    @pytest.mark.world_size(2)
    @pytest.mark.ds_timeout(1)
    def test_setup():
        pass
    """
)
def test_a_fixture_hangs(shown):
    """A hang in a fixture is an error at set-up."""
    assert shown.failure == text(
        """
        ERROR at setup of test_setup
        E   hang: 1 rank of 2 (0) had not ended the body after 1 s (--ds-timeout allows more)
        -------------------------- rank 0: no collective yet ---------------------------
        Current thread 0xN (most recent call first):
          DIR/test_setup.py:7 in slow
            time.sleep(60)
          (N frames of pytest and pytest-deepspeed)
        -------------------------- rank 1: no collective yet ---------------------------
        no stack: it had ended (exited with code 0)
        ------------------------------------ ranks -------------------------------------
        rank 0: was still in setup
        rank 1: passed

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_setup.py::test_setup --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import pytest, torch, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_peer_ended(rank):
        dist.all_reduce(torch.ones(2))
        if rank == 0:
            dist.recv(torch.ones(1), src=1)
    """
)
def test_a_peer_that_ended_before(shown):
    """A rank that waits for one that passed is freed, and told which call that one never made."""
    # Between the two is torch's own source, which differs between its versions.
    parts = re.split(r"^_ .* _\n|^-+ Captured log .*\n", shown.failure, flags=re.MULTILINE)
    head, _wrapper, tail, *_log = parts
    assert head + tail[tail.index("---") :] == text(
        """
        test_peer_ended

        rank = 0

            @pytest.mark.world_size(2)
            def test_peer_ended(rank):
                dist.all_reduce(torch.ones(2))
                if rank == 0:
        >           dist.recv(torch.ones(1), src=1)

        test_peer_ended.py:7:
        ------------------------------------ ranks -------------------------------------
        rank 0: failed first, in call: it lost the connection to a peer
        rank 1: passed
        first divergence: group 0, collective 2: rank 0 is in recv of (1,) float32; rank 1 never came

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_peer_ended.py::test_peer_ended --ds-seed=0
        """
    )
    assert shown.seconds < 10, "the wait would have lasted until the budget of 60 s"
