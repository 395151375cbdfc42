"""A session over two nodes is told to end in the middle of a test: in order, and nothing stays."""

import os
import re
import signal
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

import inner
import pytest
from inner import text
from marked import processes, segments, wait_for
from nodes_lines import TWO_NODES

SOURCE = """
    import os, subprocess, time
    from pathlib import Path
    import pytest, torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_before():
        pass

    @pytest.mark.world_size(2)
    def test_long(rank):
        Path(f"/dev/shm/{os.environ['FAULT_MARK']}_{rank}").write_text("x")
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        dist.barrier()
        Path(f"started_{rank}").touch()
        time.sleep(600)

    @pytest.mark.world_size(2)
    def test_next():
        pass

    def test_last():
        pass
"""


@pytest.fixture
def running(tmp_path):
    """A session whose ranks sleep on both nodes; its process, and what is left of it."""
    mark = f"fault_{uuid.uuid4().hex}"

    def left():
        return processes(mark) + segments(mark)

    inner.write(tmp_path, SOURCE)
    process = inner.start(tmp_path, *TWO_NODES, "--ds-timeout=500", FAULT_MARK=mark)
    try:
        wait_for(
            lambda: len(list(tmp_path.glob("started_*"))) == 2 or process.poll() is not None, 400
        )
        assert process.poll() is None, (tmp_path / "output").read_text()
        # The controller, two agents, one store, two ranks, and what each rank leaves.
        assert len(left()) == 10
        yield process, left
    finally:
        process.kill()
        process.wait()
        for pid in processes(mark):
            os.kill(pid, signal.SIGKILL)
        for name in segments(mark):
            Path("/dev/shm", name).unlink(missing_ok=True)


def shown(process, folder):
    """The session, once it has ended."""
    (folder / "status").write_text(str(process.wait(60)))
    return inner.Session(folder)


def test_sigterm(running, tmp_path):
    """Protects: the running test fails, the rest is named, JUnit is whole, and nothing stays."""
    process, left = running
    process.send_signal(signal.SIGTERM)
    session = shown(process, tmp_path)
    wait_for(lambda: not left(), 10)

    assert left() == []
    assert session.status == pytest.ExitCode.INTERRUPTED
    why = "pytest was told to end (SIGTERM)"
    ends = session.output[session.output.index("test_before.py .") :]
    ends = re.sub(r"^-+ generated xml .*\n| in [\d.]+s .*", "", ends, flags=re.MULTILINE)
    assert re.sub("[-=_!]{3,}", "--", ends) == text(
        f"""
        test_before.py .E

        -- ERRORS --
        -- ERROR at setup of test_long --
        {why} while this test ran on node0, node1
        -- 2 of 4 tests were not run --
        {why}
        NOT RUN test_before.py::test_next
        NOT RUN test_before.py::test_last
        -- short test summary info --
        ERROR test_before.py::test_long - Failed: pytest was told to end (SIGTERM) wh...
        PASSED test_before.py::test_before
        -- Interrupted: {why} --
        -- 1 passed, 1 error
        """
    )
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "junit.xml").iter("testcase")}
    assert sorted(cases) == ["test_before", "test_long"]
    assert len(cases["test_before"]) == 0
    (error,) = cases["test_long"]
    assert error.tag == "error"
    assert error.text == f"{why} while this test ran on node0, node1"


def test_ctrl_c(running, tmp_path):
    """Protects: Ctrl-C says where the ranks of both nodes were, and leaves nothing on either."""
    process, left = running
    process.send_signal(signal.SIGINT)
    session = shown(process, tmp_path)
    wait_for(lambda: not left(), 10)

    assert left() == []
    assert session.status == pytest.ExitCode.INTERRUPTED
    output = session.output
    ends = output[output.index("test_before.py .") : output.index("- generated xml")].rstrip(" -")
    stack = text(
        """
        Current thread 0xN (most recent call first):
          DIR/test_before.py:15 in test_long
            time.sleep(600)
          (N frames of pytest and pytest-deepspeed)
        """
    )
    assert ends == (
        f"test_before.py .\nrank 0 on node0 was in:\n{stack}rank 1 on node1 was in:\n{stack}\n"
    )
