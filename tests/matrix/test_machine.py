"""What a machine can swap to."""

from pathlib import Path

from pytest_deepspeed.training import machine


def test_a_directory_that_takes_o_direct(tmp_path):
    """Protects: the probe passes on a disk, and leaves nothing behind."""
    assert machine.not_swappable(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_no_directory(tmp_path):
    """Protects: a missing directory is named."""
    assert machine.not_swappable(tmp_path / "no") == f"{tmp_path}/no is no existing directory"


def test_no_way_to_write():
    """Protects: a directory that cannot be written, for root either, is named."""
    assert machine.not_swappable(Path("/proc")) == (
        "/proc cannot be written (No such file or directory)"
    )


def test_machine_says_what_to_do(tmp_path, monkeypatch):
    """Protects: the reason of a skip says how to get the mode."""
    monkeypatch.setattr(machine, "no_async_io", lambda _: None)
    found = machine.Machine.find("cpu", tmp_path / "no")

    assert found.no_nvme == (
        f"{tmp_path}/no is no existing directory: give a writable directory on a local disk with"
        " --ds-nvme-path"
    )
