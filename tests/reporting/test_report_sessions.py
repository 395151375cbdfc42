"""Reports of real sessions: whole, spread over workers and nodes, broken off, interrupted."""

import json
import os
import re
import signal
import time

import inner
import pytest
from filelock import FileLock

CONFIG = """{
  "train_batch_size": 8,
  "gradient_cliping": 0.1,
  "optimizer": {"type": "AdamW", "params": {"lr": 0.001}},
  // ds-lint: disable=DS901 we clip in the launcher
  "zero_optimization": {"stage": 2}
}
"""

RANKS = """
    import pytest
    import torch
    import torch.distributed as dist

    @pytest.mark.world_size(2)
    def test_ranks(rank):
        print("before, on rank", rank)
        if rank == 0:
            dist.all_reduce(torch.ones(1))
        assert rank == 0, "rank 1 has not joined"

    @pytest.mark.world_size(2)
    def test_ranks_pass(rank):
        pass

    @pytest.mark.xfail
    def test_known():
        assert False

    def test_skips():
        pytest.skip("not today")

    @pytest.fixture
    def broken():
        raise ValueError("a broken fixture")

    def test_broken_setup(broken):
        pass
"""

NONE_COLLECTED = "import no_such_module\n\ndef test_never(): pass"


def load(folder, name="r.json"):
    """A report that a session wrote as JSON."""
    return json.loads((folder / name).read_text())


def outcomes(report):
    """The outcome of each test."""
    return {test["nodeid"]: test["outcome"] for test in [*report["errors"], *report["tests"]]}


def stable(report):
    """What is the same however the session ran: no times, no milliseconds, no speeds."""
    text = json.dumps({test["nodeid"]: test for test in report["tests"]}, sort_keys=True)
    for name in ("seconds", "samples_per_second", "host", "tensors"):
        text = re.sub(rf'"{name}": (\[[^\]]*\]|[\d.e+-]+)', "", text)
    text = re.sub(r'"step_time": \[[^\]]*\]', "", text)
    text = re.sub(r"\d+ ms later", "N ms later", text)
    # Who sees first that its peer has gone is chance, and so is what gloo says of it.
    return re.sub(r'"ranks": \[\[.*?\]\], "reason"', '"reason"', text)


EXPECTED = {
    "ds_config.json::schema": "failed",
    "ds_config.json::loss": "passed",
    "test_ranks.py::test_ranks": "failed",
    "test_ranks.py::test_ranks_pass": "passed",
    "test_ranks.py::test_known": "xfailed",
    "test_ranks.py::test_skips": "skipped",
    "test_ranks.py::test_broken_setup": "error",
    "test_never.py": "error",
}


#: The same directory run in one process, on two workers, and over two nodes.
WAYS = {
    "alone": ["-p", "no:xdist"],
    "workers": ["-n", "2"],
    "nodes": ["-p", "no:xdist", "--ds-nodes=2", "--ds-launcher=local"],
}


class Sessions:
    """Each way of `WAYS`, run once, by whichever of xdist's workers asks first."""

    def __init__(self, base):
        self._base = base

    def __getitem__(self, name):
        folder = self._base / f"reports_{name}"
        with FileLock(f"{folder}.lock"):
            if not folder.joinpath("status").exists():
                folder.mkdir(exist_ok=True)
                (folder / "ds_config.json").write_text(CONFIG)
                wanted = ["--ds-report=r.json,r.html,r.md,r.sarif,codequality:cq.json,github"]
                # Without it pytest ends a session in which something could not be collected.
                more = ["--ds-checks=schema,loss", "--continue-on-collection-errors"]
                inner.run(folder, RANKS, NONE_COLLECTED, args=[*WAYS[name], *wanted, *more])
        return inner.Session(folder), load(folder)


@pytest.fixture(scope="session")
def sessions(tmp_path_factory):
    """Sessions of all ways, read from their directories."""
    base = tmp_path_factory.getbasetemp()
    return Sessions(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.mark.parametrize("name", WAYS)
def test_a_report_is_complete(sessions, name):
    """Protects: every outcome, with and without workers and over nodes."""
    session, report = sessions[name]

    assert session.status == 1
    assert outcomes(report) == EXPECTED
    assert report["complete"] is True
    assert report["verdict"] == "2 error, 2 failed, 1 xfailed, 1 skipped, 2 passed"
    assert report["exit_status"] == 1


def test_workers_report_the_same(sessions):
    """Protects: with ``-n 2`` reports are those of one process, details and properties included."""
    assert stable(sessions["workers"][1]) == stable(sessions["alone"][1])


def test_what_is_told(sessions):
    """Protects: findings of rules, suppressed ones with the reason, and the training."""
    _, report = sessions["workers"]
    tests = {test["nodeid"]: test for test in report["tests"]}
    schema = tests["ds_config.json::schema"]["details"]
    (training,) = tests["ds_config.json::loss"]["details"]["training"]

    assert schema["problem"] == [
        {
            "path": "ds_config.json",
            "line": 3,
            "column": 3,
            "rule": "DS101",
            "name": "unknown-key",
            "severity": "error",
            "message": 'DeepSpeed ignores "gradient_cliping", a key that it does not know',
            "instead": 'did you mean "gradient_clipping"?',
        }
    ] + [told for told in schema["problem"] if told["severity"] == "warning"]
    assert (training["config"], training["mode"]) == ("ds_config.json", "zero2-fp32")
    assert (training["world_size"], training["device"]) == (2, "cpu")
    steps = {len(training[name]) for name in ("loss", "twin_loss", "grad_norm", "lr", "step_time")}
    assert steps == {6}
    assert (
        training["memory"]["held"]["parameters"]
        == [training["memory"]["expected"]["parameters"]] * 2
    )
    assert min(training["memory"]["peaks"]["host"]) >= 0
    assert "  + train_micro_batch_size_per_gpu: 4  (from the other batch sizes)" in "\n".join(
        training["effective"]
    )


def test_a_failure_brings_its_ranks(sessions):
    """Protects: the failing rank's traceback, what became of each rank, and each one's output."""
    _, report = sessions["workers"]
    (test,) = (test for test in report["tests"] if test["nodeid"] == "test_ranks.py::test_ranks")

    assert test["message"] == "rank 1: AssertionError: rank 1 has not joined assert 1 == 0"
    assert test["reason"] == [
        "rank 1: AssertionError: rank 1 has not joined",
        "assert 1 == 0",
    ]
    assert "E       AssertionError: rank 1 has not joined\n" in test["text"]
    assert "repeat it outside pytest" not in test["text"]
    (said,) = (text for title, text in test["ranks"] if title == "ranks")
    assert "rank 1: failed first, in call\n" in said
    assert "repeat it outside pytest:\n" in said
    assert ["Captured stdout [rank 0]", "before, on rank 0\n"] in test["sections"]
    assert (test["world_size"], test["line"]) == (0, 5)


def test_each_file_is_written_and_named(sessions):
    """Protects: every format of one session, named at its end; annotations among its output."""
    session, _ = sessions["workers"]
    files = ["r.json", "r.html", "r.md", "r.sarif", "cq.json"]

    assert "".join(f"deepspeed report: {name}\n" for name in files) in session.output
    assert all((session.folder / name).stat().st_size > 100 for name in files)
    assert (
        "::error file=ds_config.json,line=3,col=3,title=DS101 unknown-key::DeepSpeed ignores"
        ' "gradient_cliping", a key that it does not know; did you mean "gradient_clipping"?\n'
    ) in session.output
    assert "::error file=test_ranks.py,line=5,title=failed " in session.output


@pytest.mark.also_without_xdist
def test_after_the_first_failure(inner_session, tmp_path):
    """Protects: after ``-x`` the report names what failed, and what did not run."""
    source = """
        def test_a(): pass
        def test_b(): assert 0, "stop here"
        def test_c(): pass
    """
    inner_session(source, args=["-x", "-p", "no:xdist", "--ds-report=r.json"])
    report = load(tmp_path)

    assert list(outcomes(report).values()) == ["passed", "failed", "not run"]
    assert report["incomplete"] == (
        "1 of 3 tests did not run to their end: stopping after 1 failures"
    )


@pytest.mark.also_without_xdist
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("args", [["-p", "no:xdist"], ["-n", "1"]], ids=["alone", "worker"])
def test_interrupted(tmp_path, sent, args):
    """Protects: after Ctrl-C and SIGTERM the report has what ran, and names what did not."""
    inner.write(
        tmp_path,
        """
        import time
        from pathlib import Path

        def test_a(): pass

        def test_b():
            Path("begun").touch()
            time.sleep(8)

        def test_c(): pass
        """,
    )
    process = inner.start(tmp_path, *args, "--ds-report=r.json")
    for _ in range(600):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.05)
    time.sleep(2)  # a worker's news of it are on their way
    process.send_signal(sent)
    status = process.wait(60)
    report = load(tmp_path)
    first, second, third = (outcomes(report)[f"test_a.py::test_{name}"] for name in "abc")

    assert (status, report["exit_status"], first, third) == (2, 2, "passed", "not run")
    # SIGTERM lets the test that is under way end, where no worker has it.
    ends = sent == signal.SIGTERM and "no:xdist" in args
    assert second == ("passed" if ends else "interrupted")
    assert report["complete"] is False
    missing = 1 if ends else 2
    assert report["incomplete"].startswith(f"{missing} of 3 tests did not run to their end: ")


def test_a_worker_that_crashes(inner_session, tmp_path):
    """Protects: a test that takes its worker down is a failure in the report, and others ran."""
    source = """
        import os

        def test_a(): pass
        def test_b(): os._exit(3)
        def test_c(): pass
    """
    inner_session(source, args=["-n", "1", "--ds-report=r.json,r.html"])
    report = load(tmp_path)
    crashed = next(test for test in report["tests"] if test["nodeid"].endswith("test_b"))

    assert set(outcomes(report).values()) == {"passed", "failed"}
    assert report["verdict"] == "1 failed, 2 passed"
    assert crashed["message"] == "worker 'gw0' crashed while running 'test_a.py::test_b'"


def test_what_is_run_again_counts_once(inner_session, tmp_path):
    """Protects: with pytest-rerunfailures the last try of a test is in the report, once."""
    source = """
        tries = []

        def test_second_time():
            tries.append(1)
            assert len(tries) == 2
    """
    inner_session(source, args=["--reruns=1", "--ds-report=r.json"])
    (test,) = load(tmp_path)["tests"]

    assert (test["outcome"], test["text"]) == ("passed", "")


@pytest.mark.parametrize("args", [[], ["-q"]], ids=["plain", "quiet"])
def test_on_github(tmp_path, args):
    """Protects: GitHub's runner gets annotations of configs unasked, and none with ``-q``."""
    (tmp_path / "ds_config.json").write_text(CONFIG)
    inner.write(tmp_path, "def test_fails(): assert 0")
    process = inner.start(tmp_path, *args, "--ds-checks=schema", GITHUB_ACTIONS="true")
    process.wait(60)
    shown = re.findall(r"^::error file=(\S+?),", (tmp_path / "output").read_text(), re.MULTILINE)

    assert shown == ([] if args else ["ds_config.json"])


def test_no_environment(tmp_path):
    """Protects: no variable of the environment gets into a report, nor where the project lies."""
    inner.write(tmp_path, "def test_fails(): assert 0")
    files = ("r.json", "r.html", "r.md", "r.sarif")
    wanted = f"--ds-report={','.join(files)}"
    inner.start(tmp_path, wanted, A_TOKEN="hunter2").wait(60)

    for name in files:
        text = (tmp_path / name).read_text()
        assert "hunter2" not in text
        assert str(tmp_path) not in text
