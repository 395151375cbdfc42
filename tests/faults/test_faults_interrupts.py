# ruff: noqa: E501 (messages are compared as they are shown)
"""The session is interrupted or killed in the middle of a test: nothing of it stays."""

import os
import signal
import uuid
from pathlib import Path

import inner
import pytest
from inner import text
from marked import processes, segments, wait_for

SOURCE = """
    import os, subprocess, time
    from pathlib import Path
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_long(rank):
        Path(f"/dev/shm/{os.environ['FAULT_MARK']}_{rank}").write_text("x" * 4096)
        if rank == 0:
            subprocess.Popen(["sleep", "60"], start_new_session=True)
        dist.barrier()
        Path(f"started_{rank}").touch()
        time.sleep(60)

    @pytest.mark.world_size(2)
    def test_next():
        pass
"""


@pytest.fixture
def running(tmp_path):
    """A session whose ranks sleep; its process, and the mark that all it starts carry."""
    mark = f"fault_{uuid.uuid4().hex}"
    inner.write(tmp_path, SOURCE)
    process = inner.start(tmp_path, FAULT_MARK=mark)
    try:
        wait_for(
            lambda: len(list(tmp_path.glob("started_*"))) == 2 or process.poll() is not None, 120
        )
        assert process.poll() is None, (tmp_path / "output").read_text()
        yield process, mark
    finally:
        process.kill()
        process.wait()
        for pid in processes(mark):
            os.kill(pid, signal.SIGKILL)
        for name in segments(mark):
            Path("/dev/shm", name).unlink(missing_ok=True)


def test_what_the_checks_look_at(running):
    """The checks below see the controller, its agent, the store, two ranks, and what a rank left."""
    _, mark = running
    assert len(processes(mark)) == 6
    assert sorted(segments(mark)) == [f"{mark}_0", f"{mark}_1"]


def test_ctrl_c(running, tmp_path):
    """Ctrl-C ends the session at once as pytest does, says where each rank was, and leaves nothing."""
    process, mark = running
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == pytest.ExitCode.INTERRUPTED
    wait_for(lambda: not processes(mark) and not segments(mark), 5)
    assert processes(mark) == []
    assert segments(mark) == []
    (tmp_path / "status").write_text("2")
    output = inner.Session(tmp_path).output
    shown = output[output.index("test_long.py") : output.index("- generated xml")].rstrip(" -")
    assert shown == text(
        """
        test_long.py
        rank 0 was in:
        Current thread 0xN (most recent call first):
          DIR/test_long.py:12 in test_long
            time.sleep(60)
          (N frames of pytest and pytest-deepspeed)
        rank 1 was in:
        Current thread 0xN (most recent call first):
          DIR/test_long.py:12 in test_long
            time.sleep(60)
          (N frames of pytest and pytest-deepspeed)

        """
    )


def test_the_controller_is_killed(running):
    """A controller that is killed takes all that it started with it, shared memory included."""
    process, mark = running
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    wait_for(lambda: not processes(mark) and not segments(mark), 5)
    assert processes(mark) == []
    assert segments(mark) == []


def test_sigterm(running, tmp_path):
    """SIGTERM, which batch systems send before they kill, fails the test and writes the report."""
    process, mark = running
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == pytest.ExitCode.INTERRUPTED
    wait_for(lambda: not processes(mark) and not segments(mark), 5)
    assert processes(mark) == []
    assert segments(mark) == []
    (tmp_path / "status").write_text("2")
    session = inner.Session(tmp_path)
    shown = session.test(tmp_path / "test_long.py").failure
    assert shown.rstrip() == (
        "ERROR at setup of test_long\npytest was told to end (SIGTERM) while this test ran"
    )
    assert session.section("1 of 2 tests were not run") == (
        "pytest was told to end (SIGTERM)\nNOT RUN test_long.py::test_next\n"
    )
