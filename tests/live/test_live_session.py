"""The live line of real sessions on a real terminal, and the sessions that have none."""

import json
import os
import re
import subprocess
import sys

import inner
import pytest
from terminals import Terminal, lines, plain, start

CONFIG = {
    "train_batch_size": 8,
    "optimizer": {"type": "SGD", "params": {"lr": 0.01}},
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 2000},
}

#: A workload whose steps take long enough to be seen, but not those of its twin.
SLOW = """
import os, time
from pytest_deepspeed import Workload

def pytest_ds_workload():
    import torch

    def loss(model, batch):
        if hasattr(model, "backward"):
            time.sleep(float(os.environ.get("STEP", "0.4")))
        x, y = batch
        return torch.nn.functional.mse_loss(model(x).float(), y)

    inputs = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    return Workload(
        model=lambda: torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Linear(32, 1)),
        dataset=[(x, x.sum(0, keepdim=True)) for x in inputs],
        loss=loss,
    )
"""


@pytest.fixture
def project(tmp_path):
    """A directory with a config and the slow workload."""
    inner.write(tmp_path)
    (tmp_path / "conftest.py").write_text(SLOW)
    (tmp_path / "ds_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def session(folder, *args, rows=24, status=0, **env):
    """A session that has ended, as its terminal saw it."""
    terminal = Terminal(rows=rows)
    process = start(terminal, folder, "--basetemp=base", *args, **env)
    try:
        while terminal.read():
            pass
        assert process.wait(60) == status, "\n".join(lines(terminal.screen))
    finally:
        process.kill()
        process.wait()
        os.close(terminal.ours)
    return terminal


def steps_of(texts, head):
    """The steps that the texts with such a beginning tell."""
    found = [re.fullmatch(rf"{head} · step (\d)/(\d) · loss \S+ · N s", text) for text in texts]
    return [(int(match[1]), int(match[2])) for match in found if match]


def test_a_config_file(project):
    """Protects: each phase is shown as it goes, and the screen ends as on a terminal that knows no
    line, line by line, with what has scrolled out of it.
    """
    checks = "--ds-checks=loss,checkpoint"
    shown = session(project, checks, rows=10, PY_COLORS="0")
    left = list((project / "base" / "ds_shared" / "live").iterdir())
    bare = session(project, checks, rows=10, PY_COLORS="0", TERM="dumb")

    name = r"ds_config.json zero2-fp32"
    assert shown.texts[0] == f"training {name} · N s"
    # What comes right after a last step may follow it too fast to be seen.
    for head, seen, of in (("training", 4, 6), ("saving", 2, 5), ("resuming", 1, 5)):
        told = steps_of(shown.texts, f"{head} {name}")
        assert len(told) >= seen
        assert told == sorted(told)
        assert {steps for _, steps in told} == {of}
    assert min(steps_of(shown.texts, f"resuming {name}")) == (4, 5)
    assert left == []
    assert lines(shown.screen) == shown.without
    assert plain(lines(shown.screen), project) == plain(lines(bare.screen), project)
    assert b"\x1b" not in bare.raw
    assert not (project / "base" / "ds_shared" / "live").exists()


def test_workers_of_xdist(project):
    """Protects: the controller shows what its workers' ranks train, `ds_train` too, and its own
    lines stay whole.
    """
    (project / "test_ranked.py").write_text(RANKED)
    shown = session(project, "-n2", "-v", "--ds-checks=loss")

    told = "\n".join(shown.texts)
    assert "training ds_config.json zero2-fp32 · step " in told
    assert "training zero1-fp32 · " in told or " (and 1 more)" in told
    assert lines(shown.screen) == shown.without
    assert sum(" PASSED " in line for line in lines(shown.screen)) == 2


RANKED = """
import pytest

@pytest.mark.world_size(2)
@pytest.mark.ds_config(
    stage=1, optimizer={"type": "SGD", "params": {"lr": 0.01}}, zero_allow_untested_optimizer=True
)
def test_ranked(ds_train):
    ds_train(steps=200)
"""


def test_an_op_build(project):
    """Protects: what a test waits for is shown while an op compiles, beside the lines that stay."""
    config = CONFIG | {"optimizer": {"type": "Adam", "params": {"lr": 0.01}}}
    (project / "ds_config.json").write_text(json.dumps(config))
    compiler = project / "slow-c++"
    compiler.write_text("#!/bin/sh\nsleep 2\necho no compiler at all >&2\nexit 1\n")
    compiler.chmod(0o755)
    cache = str(project / "ops")
    args = ("--ds-checks=loss", "--tb=no")
    shown = session(project, *args, status=1, CXX=str(compiler), PYTEST_DS_OPS_CACHE=cache)

    assert any(text.endswith("compiling fused_adam, N s so far") for text in shown.texts)
    assert lines(shown.screen) == shown.without
    screen = lines(shown.screen)
    assert "building DeepSpeed's op fused_adam, once for this machine" in screen
    assert "DeepSpeed's op fused_adam could not be built:" in screen


def test_ctrl_c(project):
    """Protects: Ctrl-C in the middle of a step leaves pytest's own words and a clean line."""
    terminal = Terminal()
    process = start(terminal, project, "--ds-checks=loss", STEP="60")
    try:
        while "training ds_config.json zero2-fp32 · N s" not in terminal.texts:
            assert terminal.read(), "\n".join(lines(terminal.screen))
        os.write(terminal.ours, b"\x03")
        while terminal.read():
            pass
        assert process.wait(60) == pytest.ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.wait()
        os.close(terminal.ours)

    screen = lines(terminal.screen)
    assert screen == terminal.without
    assert [line for line in screen if "training ds_config" in line] == []
    assert "! KeyboardInterrupt !" in "\n".join(screen)
    assert terminal.screen.cursor.x == 0


ASKS = """
def pytest_sessionfinish(session):
    from pytest_deepspeed.live import session as live
    who = getattr(session.config, "workerinput", {}).get("workerid", "controller")
    draws, tells = live.of(session.config), live.folder(session.config)
    with open("live", "a") as file:
        file.write(f"{who}: {'draws' * bool(draws)} {'tells' * bool(tells)}\\n")
"""


@pytest.mark.parametrize(
    ("args", "env", "expected"),
    [
        ("", {}, "controller: draws tells"),
        ("-v", {}, "controller: draws tells"),
        ("--color=no", {}, "controller: draws tells"),
        ("-n1", {}, "controller: draws tells\ngw0:  tells"),
        ("-q", {}, "controller:"),
        ("-q -n1", {}, "controller:\ngw0:"),
        ("-s", {}, "controller:"),
        ("-p no:terminal", {}, "controller:"),
        ("", {"TERM": "dumb"}, "controller:"),
        ("", {"CI": "true"}, "controller:"),
    ],
)
def test_who_draws(tmp_path, args, env, expected):
    """Protects: the line is on terminals alone, and where it is off ranks are told of none."""
    inner.write(tmp_path, "def test_one(): pass")
    (tmp_path / "conftest.py").write_text(ASKS)
    shown = session(tmp_path, *args.split(), **env)

    told = sorted((tmp_path / "live").read_text().splitlines())
    assert "\n".join(line.rstrip() for line in told) == expected
    assert shown.texts == []


def test_redirected(tmp_path):
    """Protects: no escape codes in a file."""
    inner.write(tmp_path, "def test_one(): pass")
    (tmp_path / "conftest.py").write_text(ASKS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest"],
        cwd=tmp_path,
        env=inner.environment(TERM="xterm"),
        capture_output=True,
        check=True,
    )

    assert (tmp_path / "live").read_text() == "controller:  \n"
    assert b"\x1b" not in done.stdout + done.stderr
