# ruff: noqa: E501 (messages are compared as they are shown)
"""What a test leaves behind is taken away, and told."""

import re
from pathlib import Path

import pytest
from inner import text


@pytest.mark.inner(
    """
    import subprocess
    import pytest

    @pytest.mark.world_size(2)
    def test_process(rank):
        if rank == 0:
            subprocess.Popen(["sleep", "600"], start_new_session=True)
    """
)
def test_a_process_that_called_setsid(shown):
    """A process in a session of its own, out of reach of its rank's end, is found and killed."""
    assert shown.warnings == text(
        """
        test_process.py::test_process
          DIR/test_process.py:4: RankLeakWarning: a process was left running and was killed: sleep 600 (pid N)
            @pytest.mark.world_size(2)
        """
    )
    assert shown.summary == ["PASSED test_process.py::test_process"]
    assert shown.left == []


@pytest.mark.inner(
    """
    import subprocess
    import pytest

    @pytest.mark.world_size(2)
    def test_processes(rank):
        if rank == 0:
            for _ in range(5):
                subprocess.Popen(["sleep", "600"], start_new_session=True)
    """
)
def test_many_processes(shown):
    """Processes that are alike are told in one sentence: 300 warnings hide all others."""
    told = re.sub(r"pids (\d+, ){2}\d+", "pids N, N, N", shown.warnings)
    assert told == text(
        """
        test_processes.py::test_processes
          DIR/test_processes.py:4: RankLeakWarning: 5 processes were left running and were killed: sleep 600 (pids N, N, N and others)
            @pytest.mark.world_size(2)
        """
    )
    assert shown.left == []


@pytest.mark.inner(
    """
    import os
    import pytest

    @pytest.mark.world_size(2)
    def test_segment(rank):
        if rank == 0:
            with open(f"/dev/shm/left_{os.getpid()}", "w") as segment:
                segment.write("x" * 4096)
    """
)
def test_a_shared_memory_segment(shown):
    """A segment that no process maps any more is unlinked: on /dev/shm it would cost memory."""
    name = re.search(r"left_\d+", shown.warnings)[0]
    assert shown.warnings == text(
        f"""
        test_segment.py::test_segment
          DIR/test_segment.py:4: RankLeakWarning: a shared-memory segment was left and was unlinked: /dev/shm/{name} (4096 bytes)
            @pytest.mark.world_size(2)
        """
    )
    assert shown.summary == ["PASSED test_segment.py::test_segment"]
    assert not Path("/dev/shm", name).exists()


@pytest.mark.inner(
    """
    import multiprocessing, multiprocessing.shared_memory
    import pytest, torch

    KEPT = []

    def double(x):
        return 2 * x

    @pytest.mark.world_size(2)
    def test_tidy(rank):
        memory = multiprocessing.shared_memory.SharedMemory(create=True, size=64)
        memory.close()
        memory.unlink()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.map(double, [1]) == [2]
        tensors = torch.arange(8.0)
        loader = torch.utils.data.DataLoader(tensors, num_workers=1, persistent_workers=True)
        assert len(list(loader)) == 8
        KEPT.append(loader)
    """
)
def test_helpers_that_end_by_themselves(shown):
    """The helpers of multiprocessing and of a DataLoader are no leak, though they outlive the rank."""
    assert "RankLeakWarning" not in shown.warnings
    assert shown.summary == ["PASSED test_tidy.py::test_tidy"]
