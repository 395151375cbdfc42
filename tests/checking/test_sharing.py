"""What several tests need is made once: in one process, in several, and where it fails."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from pytest_deepspeed import RanksFailed, sharing


@pytest.fixture
def config(tmp_path):
    """All that `sharing` asks of a config: a session's base directory."""
    base = tmp_path / "base"
    base.mkdir()
    return SimpleNamespace(_tmp_path_factory=SimpleNamespace(getbasetemp=lambda: base))


def fails(home):
    """A training whose ranks fail."""
    raise RanksFailed("rank 1: no")


def test_made_once(config):
    """Protects: the second that asks gets what was made for the first; another key another."""
    homes = []

    def make(home):
        homes.append(home)
        return f"made {len(homes)}"

    answers = [sharing.once(config, key, "test_a", make) for key in ("x", "x", "y")]

    assert answers == ["made 1", "made 1", "made 2"]
    assert homes == [sharing.folder(config) / "x", sharing.folder(config) / "y"]


def test_a_failure_is_remembered(config):
    """Protects: what failed is not made again for another test, which is told where to look."""
    with pytest.raises(RanksFailed, match=r"^rank 1: no$"):
        sharing.once(config, "x", "test_a.py:3: test_a", fails)

    with pytest.raises(RanksFailed) as error:
        sharing.once(config, "x", "test_a.py:9: test_b", pytest.fail)
    assert str(error.value) == ("its training failed; the failure is shown at test_a.py:3: test_a")


def test_a_rerun_makes_it_anew(config):
    """Protects: the test that failed is not referred to itself; its second try counts for all."""
    with pytest.raises(RanksFailed):
        sharing.once(config, "x", "test_a", fails)

    assert sharing.once(config, "x", "test_a", lambda home: "made") == "made"
    assert sharing.once(config, "x", "test_b", pytest.fail) == "made"


def test_another_error_is_not_remembered(config):
    """Protects: a skip, or an error that is none of the ranks, is each test's own."""

    def skips(home):
        pytest.skip("no libaio")

    for who in ("test_a", "test_b"):
        with pytest.raises(pytest.skip.Exception, match=r"^no libaio$"):
            sharing.once(config, "x", who, skips)


def test_half_a_result_is_not_taken(config):
    """Protects: what an interrupted session had not finished to write is made again."""

    def interrupted(home):
        (home / "unfinished").write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sharing.once(config, "x", "test_a", interrupted)

    assert sharing.once(config, "x", "test_b", lambda home: "whole") == "whole"


def test_threads_wait_for_each_other(config):
    """Protects: who asks while it is made waits for it, and does not make it too."""
    made, answers = [], []

    def make(home):
        made.append(home)
        time.sleep(0.2)
        return "made"

    def ask(who):
        answers.append(sharing.once(config, "x", who, make))

    threads = [threading.Thread(target=ask, args=(who,)) for who in ("test_a", "test_b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (answers, len(made)) == (["made", "made"], 1)


WORKER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from pytest_deepspeed import sharing

def make(home):
    time.sleep(0.2)
    return sys.argv[2]

base = Path(sys.argv[1]) / sys.argv[2]
base.mkdir()
config = SimpleNamespace(_tmp_path_factory=SimpleNamespace(getbasetemp=lambda: base))
print(sharing.once(config, "x", sys.argv[2], make), end="")
"""


def test_workers_share(tmp_path, monkeypatch):
    """Protects: xdist's workers, each with a base directory of its own, share what one made."""
    workers = []
    for name in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", name)
        command = [sys.executable, "-c", WORKER, str(tmp_path), name]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    first, second = (worker.communicate(timeout=60)[0] for worker in workers)

    assert first == second
    assert first in ("gw0", "gw1")


def test_sessions_do_not_share(config, tmp_path, monkeypatch):
    """Protects: without workers the directory is the session's own, below its base directory."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    assert sharing.folder(config) == tmp_path / "base" / "ds_shared"

    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    assert sharing.folder(config) == tmp_path / "ds_shared"
