"""What the live line says, and of whom."""

import dataclasses
import os
import subprocess
import time

import pytest

from pytest_deepspeed.live.wording import wording
from pytest_deepspeed.processes import progress
from pytest_deepspeed.processes.progress import Progress, Telling

TRAINING = Progress(
    "training", "ds_config.json", "zero2-bf16", step=3, steps=6, loss=2.6134, began=100.0
)
BUILD = Progress("compiling", "async_io", began=40.0)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], ""),
        ([TRAINING], "training ds_config.json zero2-bf16 · step 3/6 · loss 2.613 · 10 s"),
        ([dataclasses.replace(TRAINING, step=0)], "training ds_config.json zero2-bf16 · 10 s"),
        ([dataclasses.replace(TRAINING, what="", step=0)], "training zero2-bf16 · 10 s"),
        ([dataclasses.replace(TRAINING, step=0, began=111.0)],
         "training ds_config.json zero2-bf16 · 0 s"),
        ([dataclasses.replace(TRAINING, loss=float("nan"))],
         "training ds_config.json zero2-bf16 · step 3/6 · loss nan · 10 s"),
        ([BUILD], "compiling async_io, 70 s so far"),
        ([BUILD, BUILD, dataclasses.replace(BUILD, what="fused_adam", began=90.0)],
         "compiling async_io, fused_adam, 70 s so far"),
        ([BUILD, TRAINING, dataclasses.replace(TRAINING, what="other.json", began=101.0)],
         ("training ds_config.json zero2-bf16 · step 3/6 · loss 2.613 · 10 s (and 1 more);"
          " compiling async_io, 70 s so far")),
    ],
)  # fmt: skip
def test_wording(found, text):
    """Protects: each part where it is known, and the longest under way for several."""
    assert wording(found, 110.0) == text


def test_read_as_told(tmp_path):
    """Protects: a reader finds what was told last, whole, also where that is shorter."""
    telling = Telling(tmp_path / "0", "ds_config.json")
    telling.say(doing="training", mode="zero2-bf16", steps=10, step=10, loss=2.123456789)
    telling.say(step=1, loss=1.0)

    (found,) = progress.read(tmp_path)
    expected = Progress("training", "ds_config.json", "zero2-bf16", 1, 10, 1.0, found.began)
    assert found == expected
    assert abs(found.began - time.time()) < 60

    telling.end()
    assert progress.read(tmp_path) == []


def test_names_of_any_length(tmp_path):
    """Protects: a record is whole whatever the file is called."""
    Telling(tmp_path / "0", "訓" * 400).say(doing="training")

    assert progress.read(tmp_path)[0].what == "訓" * 100


def test_of_one_that_was_killed(tmp_path):
    """Protects: what a dead process was doing is not shown as if it went on."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    telling = Telling(tmp_path / "0", "ds_config.json")
    telling.say(doing="training", pid=dead.pid)
    assert progress.read(tmp_path) == []

    telling.say(pid=dead.pid, node="another")
    assert len(progress.read(tmp_path)) == 1


def test_what_is_no_record(tmp_path):
    """Protects: a file that is being written, or of another version, is passed over."""
    (tmp_path / "0").touch()
    (tmp_path / "1").write_text('{"doing": "training", "other": 1}')

    assert progress.read(tmp_path) == []
    assert progress.read(tmp_path / "not there") == []


def test_nowhere_to_write(tmp_path):
    """Protects: a training goes on where its progress cannot be written."""
    Telling(tmp_path / "not there" / "0", "").say(doing="training")


def test_nothing_is_told_where_nobody_looks(tmp_path, monkeypatch):
    """Protects: a rank that was given no file writes none."""
    monkeypatch.chdir(tmp_path)
    progress.phase("training", {}, 6)
    progress.stepped(0, None)

    assert os.listdir(tmp_path) == []


def test_cost_of_a_step(tmp_path, monkeypatch):
    """Protects: telling a step takes less than 0.1 ms."""
    monkeypatch.setattr(progress, "_telling", None)
    progress.tell_in(str(tmp_path / "0"), "ds_config.json")
    progress.phase("training", {"bf16": {"enabled": True}}, 1000)
    times = []
    for number in range(1000):
        began = time.perf_counter()
        progress.stepped(number, TRAINING)
        times.append(time.perf_counter() - began)

    assert sorted(times)[500] < 1e-4
