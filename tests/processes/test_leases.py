"""Leases of cores and GPUs between processes."""

import json
import multiprocessing
import os
import signal
import time

import inner
import pytest

from pytest_deepspeed.processes import leases


def work(folder, log, counts):
    """A worker: takes slots, says what it holds, gives them back; each time."""
    own = leases.Leases(folder, ["0", "1", "2", "3"])
    for count in counts:
        with own.of(count) as slots, log.open("a") as lines:
            lines.write(json.dumps(["takes", slots]) + "\n")
            lines.flush()
            time.sleep(0.005)
            lines.write(json.dumps(["gives", slots]) + "\n")


def test_no_slot_has_two_holders(tmp_path):
    """Protects: six processes share four slots, each slot by one at a time."""
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("fork")
    workers = [
        spawn.Process(target=work, args=(tmp_path, log, [1, 2, 4, 1, 3, 2])) for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    held = set()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for what, slots in lines:
        if what == "takes":
            assert not held & set(slots)
            held |= set(slots)
        else:
            held -= set(slots)
    assert len(lines) == 6 * 6 * 2
    assert not held


def hold(folder, ready):
    """Takes all there is, and never gives it back."""
    with leases.Leases(folder, ["0", "1"]).of(2):
        ready.set()
        signal.pause()


def test_what_a_killed_process_held_is_free(tmp_path):
    """Protects: a worker that was killed keeps nothing."""
    spawn = multiprocessing.get_context("fork")
    ready = spawn.Event()
    holder = spawn.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    ready.wait(60)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)

    with leases.Leases(tmp_path, ["0", "1"]).of(2) as slots:
        assert slots == ["0", "1"]


def test_a_session_that_ends_waits_no_longer(tmp_path):
    """Protects: SIGTERM does not wait for other workers' worlds."""
    spawn = multiprocessing.get_context("fork")
    ready = spawn.Event()
    holder = spawn.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    ready.wait(60)
    try:
        with leases.Leases(tmp_path, ["0", "1"]).of(1, lambda: True) as slots:
            assert slots == []
    finally:
        holder.kill()
        holder.join(60)


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["0", "1", "2"]), ("2,0", ["2", "0"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]), ("", [])],
)
def test_gpus_are_those_of_the_caller(monkeypatch, visible, names):
    """Protects: leases stay within ``CUDA_VISIBLE_DEVICES``, by the names that it has."""
    from pytest_deepspeed.processes import devices

    named = 3 if visible is None else devices.named_gpus(visible)
    monkeypatch.setattr(devices, "granted_gpus", lambda: named)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert devices.names_of_gpus() == names


SHARED = """
    import os
    import time
    from pathlib import Path

    import pytest

    LOG = Path(__file__).with_name("log")

    def note(what, world_size):
        with LOG.open("a") as log:
            log.write(f"{what} {world_size}\\n")

    @pytest.mark.world_size([1, 2, 9])
    @pytest.mark.parametrize("number", range(4))
    def test_shared(number, rank, world_size):
        note("takes", 1)
        time.sleep(0.1)
        note("gives", 1)
"""


def test_worlds_of_two_workers_share_the_cores(tmp_path):
    """Protects: with ``-n 2`` ranks of different worlds are never more than the cores, and a world
    that is larger than the machine runs alone.
    """
    session = inner.run(tmp_path, SHARED, args=("-n", "2"))

    assert session.status == 0, session.output
    most = now = 0
    for line in tmp_path.joinpath("log").read_text().splitlines():
        now += 1 if line.startswith("takes") else -1
        most = max(most, now)
    assert most <= max(9, len(os.sched_getaffinity(0)))
