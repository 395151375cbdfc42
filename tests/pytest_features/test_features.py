"""What one does with pytest every day, on tests that run on ranks."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import inner
import pytest
from filelock import FileLock

TESTS = """
    import os, sys
    import pytest
    import torch.distributed as dist

    two = pytest.mark.world_size(2)

    @two
    def test_first(rank, record_property):
        print("out of", rank)
        print("err of", rank, file=sys.stderr)
        record_property("colour", "red")
        dist.barrier()

    @two
    def test_second(rank):
        assert rank == 0

    @two
    @pytest.mark.parametrize("n", [1, 2])
    def test_third(n):
        import warnings
        warnings.warn("from the ranks")

    def test_plain():
        pass
"""


@pytest.fixture
def daily(inner_session):
    """Runs `TESTS` with arguments."""
    return lambda *args: inner_session(TESTS, args=args)


@pytest.fixture(scope="session")
def all_of_them(tmp_path_factory):
    """`TESTS` in one session without xdist, which some tests share, also across xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "all_of_them"
    with FileLock(f"{folder}.lock"):
        if folder.joinpath("status").exists():
            return inner.Session(folder)
        folder.mkdir(exist_ok=True)
        args = ("-p", "no:xdist", "--durations=0", "-vv", "-rP")
        return inner.run(folder, TESTS, args=args)


def counts(session):
    """The last line, without the time."""
    return re.sub(r" in [\d.]+s.*", "", session.output.strip().splitlines()[-1]).strip("= ")


def test_everything_at_once(all_of_them):
    """Protects: counts, JUnit with properties, durations and warnings, each test reported once."""
    session = all_of_them
    cases = {c.get("name"): c for c in ET.parse(session.folder / "junit.xml").iter("testcase")}

    assert counts(session) == "1 failed, 4 passed, 2 warnings"
    assert sorted(cases) == [
        "test_first",
        "test_plain",
        "test_second",
        "test_third[1]",
        "test_third[2]",
    ]
    (colour,) = cases["test_first"].iter("property")
    assert colour.attrib == {"name": "colour", "value": "red"}
    assert "rank 1: assert 1 == 0" in cases["test_second"].find("failure").get("message")
    assert session.output.count("UserWarning: from the ranks") == 1
    assert re.search(r"s call +test_first.py::test_second", session.output)
    assert "Captured stdout [rank 1] " in session.output
    assert "out of 1\n" in session.output


def test_x_stops_at_the_first(daily):
    """Protects: ``-x``."""
    assert counts(daily("-x")) == "1 failed, 1 passed"


def test_k_and_ids_select(daily):
    """Protects: ``-k``."""
    assert counts(daily("-k", "third and 2")) == "1 passed, 4 deselected, 1 warning"


def test_lf_repeats_the_failed(all_of_them, tmp_path):
    """Protects: ``--lf`` after a run with a failure."""
    shutil.copytree(all_of_them.folder, tmp_path, dirs_exist_ok=True)

    assert counts(inner.run(tmp_path, TESTS, args=["--lf"])) == "1 failed"


def test_s_shows_ranks_live(daily):
    """Protects: ``-s`` shows each rank's lines as they come, with the rank before each."""
    session = daily("-s", "-k", "first")

    for line in ("out of 0", "out of 1", "err of 0", "err of 1"):
        assert f"[rank {line[-1]}] {line}\n" in session.output


def test_show_capture_no(daily):
    """Protects: ``--show-capture=no`` hides the ranks' output, and not what became of them."""
    session = daily("--show-capture=no", "-k", "second")

    assert "Captured" not in session.output
    assert "rank 1: failed first, in call" in session.output


def test_same_outcomes_with_and_without_xdist(daily, all_of_them):
    """Protects: ``-n 2`` and ``-p no:xdist`` give the same outcomes."""
    assert counts(daily("-n", "2")) == counts(all_of_them) == "1 failed, 4 passed, 2 warnings"


def test_world_size_is_replaced(inner_session):
    """Protects: ``--ds-world-size`` replaces the size of every marked test, lists included."""
    session = inner_session(
        """
        import pytest

        @pytest.mark.world_size(2)
        def test_replaced(world_size):
            assert world_size == 3

        @pytest.mark.world_size([1, 2, 4])
        def test_list(world_size):
            assert world_size == 3
        """,
        args=["--ds-world-size=3", "-v"],
    )

    assert counts(session) == "2 passed"
    assert "test_list[world_size_3]" in session.output


def test_pdb_steps_through_the_body(inner_session, tmp_path):
    """Protects: ``--ds-world-size=1 --pdb`` stops in the body, with its variables."""
    inner.write(
        tmp_path,
        """
        import pytest
        import torch.distributed as dist

        @pytest.mark.world_size(2)
        def test_body(rank, world_size):
            secret = 40 + dist.get_world_size()
            assert secret == 0
        """,
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--ds-world-size=1", "--pdb"],
        cwd=tmp_path,
        env=inner.environment(),
        input="p secret\nquit\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert "(Pdb) 41\n" in done.stdout


def test_pdb_needs_one_rank(daily):
    """Protects: ``--pdb`` with more ranks than terminals says what to add."""
    session = daily("--pdb")

    assert session.status == 4
    assert (
        "ERROR: test_first.py:7: test_first needs 2 ranks and this process is one of 1: a debugger"
        " has one terminal; add --ds-world-size=1" in session.output
    )


def test_collect_only_starts_nothing(daily):
    """Protects: ``--collect-only`` starts no agent and shows the markers' tests."""
    session = daily("--collect-only", "-q")

    assert "test_third[2]" in session.output
    assert session.status == 0


def test_markers_are_listed(inner_session):
    """Protects: ``--markers`` explains each marker."""
    session = inner_session(TESTS, args=["--markers"])

    for name in ("world_size(n,", "ds_config(config=None,", "ds_timeout(seconds)", "zero3:"):
        assert f"@pytest.mark.{name}" in session.output
