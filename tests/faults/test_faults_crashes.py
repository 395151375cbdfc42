# ruff: noqa: E501 (messages are compared as they are shown)
"""A rank that dies: named with its signal or exit code, its output kept, its peers freed."""

import re

import pytest
from inner import text


@pytest.mark.inner(
    """
    import os, signal, sys
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_killed(rank):
        dist.barrier()
        print("before the end, not flushed", rank)
        print("an error", rank, file=sys.stderr)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
    """
)
def test_a_rank_is_killed(shown):
    """A killed rank is named with its signal, its last output is not lost, its peer is freed."""
    assert shown.failure == text(
        """
        test_killed
        E   rank 1 was killed by SIGKILL in call: not by pytest-deepspeed; the kernel's OOM killer is the usual sender (dmesg tells)
        ------------------------------------ ranks -------------------------------------
        rank 0: aborted in call, N ms later: it lost the connection to a peer
        rank 1: was killed by SIGKILL in call

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_killed.py::test_killed --ds-seed=0
        --------------------------- Captured stdout [rank 0] ---------------------------
        before the end, not flushed 0
        --------------------------- Captured stderr [rank 0] ---------------------------
        an error 0
        --------------------------- Captured stdout [rank 1] ---------------------------
        before the end, not flushed 1
        --------------------------- Captured stderr [rank 1] ---------------------------
        an error 1
        """
    )
    assert shown.summary == [
        "FAILED test_killed.py::test_killed - rank 1 was killed by SIGKILL in call: no..."
    ]
    assert shown.seconds < 10, "the peer's barrier would have lasted until the budget of 60 s"


@pytest.mark.inner(
    """
    import ctypes
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_segfault(rank):
        dist.barrier()
        if rank == 0:
            ctypes.string_at(1)
        dist.barrier()
    """
)
def test_a_segmentation_fault(shown):
    """A rank that dies in native code shows faulthandler's stack of where it was."""
    assert shown.failure == text(
        """
        test_segfault
        E   rank 0 was killed by SIGSEGV in call
        ------------- rank 0: last collective barrier, number 1 of group 0 -------------
        Fatal Python error: Segmentation fault
        Current thread 0xN (most recent call first):
          python/ctypes/__init__.py:N in string_at
            return _string_at(ptr, size)
          DIR/test_segfault.py:8 in test_segfault
            ctypes.string_at(1)
          (N frames of pytest and pytest-deepspeed)
        ------------------------------------ ranks -------------------------------------
        rank 0: was killed by SIGSEGV in call
        rank 1: aborted in call, N ms later: it lost the connection to a peer

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_segfault.py::test_segfault --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import os
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_exit(rank):
        dist.barrier()
        if rank == 0:
            os._exit(0)
        dist.barrier()
    """
)
def test_a_rank_exits_with_zero(shown):
    """Exit code 0 before the end of the test is a crash: nothing proves that the body ran."""
    assert shown.failure == text(
        """
        test_exit
        E   rank 0 exited with code 0 in call, before the test ended (os._exit, or a library that ends the process)
        ------------------------------------ ranks -------------------------------------
        rank 0: exited with code 0 in call
        rank 1: aborted in call, N ms later: it lost the connection to a peer

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_exit.py::test_exit --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import os, time
    import pytest

    @pytest.mark.world_size(2)
    def test_exit_all(rank):
        time.sleep(rank / 4)
        os._exit(0)
    """
)
def test_all_ranks_exit_with_zero(shown):
    """N exit codes 0 without a report are no pass."""
    assert shown.failure == text(
        """
        test_exit_all
        E   rank 0 exited with code 0 in call, before the test ended (os._exit, or a library that ends the process)
        ------------------------------------ ranks -------------------------------------
        rank 0: exited with code 0 in call
        rank 1: aborted in call, N ms later: exited with code 0

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_exit_all.py::test_exit_all --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import sys
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_sys_exit(rank):
        dist.barrier()
        if rank == 0:
            sys.exit(0)
        dist.barrier()
    """
)
def test_sys_exit(shown):
    """sys.exit(0) fails a test on a rank, as it does without ranks, with the line that called it."""
    assert shown.failure == text(
        """
        test_sys_exit

        rank = 0

            @pytest.mark.world_size(2)
            def test_sys_exit(rank):
                dist.barrier()
                if rank == 0:
        >           sys.exit(0)
        E           SystemExit: 0

        test_sys_exit.py:8: SystemExit
        ------------------------------------ ranks -------------------------------------
        rank 0: failed first, in call
        rank 1: aborted in call, N ms later: it lost the connection to a peer

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_sys_exit.py::test_sys_exit --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_pytest_exit(rank):
        dist.barrier()
        if rank == 0:
            pytest.exit("enough")
        dist.barrier()
    """
)
def test_pytest_exit_on_a_rank(shown):
    """pytest.exit() on a rank fails that test; it cannot end the session of the controller."""
    assert shown.failure == text(
        """
        test_pytest_exit

        rank = 0

            @pytest.mark.world_size(2)
            def test_pytest_exit(rank):
                dist.barrier()
                if rank == 0:
        >           pytest.exit("enough")
        E           _pytest.outcomes.Exit: enough

        test_pytest_exit.py:7: Exit
        ------------------------------------ ranks -------------------------------------
        rank 0: failed first, in call
        rank 1: aborted in call, N ms later: it lost the connection to a peer

        repeat it outside pytest:
        env OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node=2 -m pytest_deepspeed test_pytest_exit.py::test_pytest_exit --ds-seed=0
        """
    )


@pytest.mark.inner(
    """
    import os, signal, subprocess
    from pathlib import Path
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_agent_stopped(rank):
        dist.barrier()
        if rank == 0:
            agent = os.getppid()
            Path("agent").write_text(str(agent))
            subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {agent}"])
            os.kill(agent, signal.SIGSTOP)

    @pytest.mark.world_size(2)
    def test_on_the_same_agent():
        assert Path("agent").read_text() == str(os.getppid())
    """
)
def test_the_agent_is_stopped_for_a_while(shown):
    """Ranks that ended while the agent could not look are heard, and it goes on with the next test."""
    assert shown.summary == [
        "PASSED test_agent_stopped.py::test_agent_stopped",
        "PASSED test_agent_stopped.py::test_on_the_same_agent",
    ]


@pytest.mark.inner(
    """
    import os, signal, subprocess, time
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_agent_killed(rank):
        if rank == 0:
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    @pytest.mark.world_size(2)
    def test_on_a_new_agent():
        dist.barrier()
    """
)
def test_the_agent_is_killed(shown):
    """A dead agent is one failed test with its reason and leaves nothing; the next gets a new one."""
    assert shown.failure == text(
        """
        ERROR at setup of test_agent_killed
        the agent that forks the ranks was killed by SIGKILL: not by pytest-deepspeed; the kernel's OOM killer is the usual sender (dmesg tells).
        """
    )
    assert shown.summary == [
        "ERROR test_agent_killed.py::test_agent_killed - Failed: the agent that forks ...",
        "PASSED test_agent_killed.py::test_on_a_new_agent",
    ]
    assert shown.left == []


def test_the_agent_is_stopped_for_good(inner_session, tmp_path):
    """An agent that says nothing any more is given up, with its ranks; the next test gets a new one."""
    session = inner_session(
        """
        import os, signal, time
        import pytest, torch.distributed as dist
        from pytest_deepspeed.processes import agent, client

        client.SILENCE, agent.HEARTBEAT = 10.0, 1.0

        @pytest.mark.world_size(2)
        def test_agent_is_stopped(rank):
            if rank == 0:
                os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(60)

        @pytest.mark.world_size(2)
        def test_longer_than_the_silence(rank):
            time.sleep(12)
            dist.barrier()
        """
    )
    shown = session.test(tmp_path / "test_agent_is_stopped.py")
    assert re.sub(r"for \d+ s", "for N s", shown.failure) == text(
        """
        ERROR at setup of test_agent_is_stopped
        the agent did not answer in time: nothing was heard of it for N s, stopped by a signal, and it was killed.
        """
    )
    assert shown.summary == [
        "ERROR test_agent_is_stopped.py::test_agent_is_stopped - Failed: the agent did...",
        "PASSED test_agent_is_stopped.py::test_longer_than_the_silence",
    ]
    assert shown.left == []


@pytest.mark.inner(
    """
    import errno, os
    from pathlib import Path
    import pytest, torch.distributed as dist

    fork, forks = os.fork, []

    def fork_but_the_third():
        forks.extend([1] * Path("no_more").exists())
        if len(forks) == 3 and Path("no_more").exists():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    def test_no_more_processes():
        Path("no_more").touch()

    @pytest.mark.world_size(4)
    def test_cannot_start():
        dist.barrier()

    def test_more_processes():
        Path("no_more").unlink()

    @pytest.mark.world_size(4)
    def test_starts():
        dist.barrier()

    os.fork = fork_but_the_third
    """
)
def test_no_more_processes(shown):
    """A rank that cannot be forked is an error that says what to look at; the ranks before it are
    gone, and the next test starts as ever.
    """
    assert shown.failure == text(
        """
        ERROR at setup of test_cannot_start
        the ranks could not be started: Resource temporarily unavailable: no more processes are allowed (ulimit -u, or pids.max of the cgroup)
        """
    )
    assert shown.left == []
