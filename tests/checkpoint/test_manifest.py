"""The manifest of a checkpoint's files."""

import re
import subprocess

import pytest

from pytest_deepspeed.training.checkpoint import manifest


@pytest.fixture
def checkpoint(tmp_path):
    """A directory with a tag, two shards and `latest`, and its manifest."""
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "a.pt").write_bytes(b"x" * 100)
    (tmp_path / "older" / "b.pt").write_bytes(b"y" * 100)
    (tmp_path / "latest").write_text("older")
    manifest.write(tmp_path)
    return tmp_path


def test_an_untouched_checkpoint_has_no_problem(checkpoint):
    """Protects: no false alarm, also when it was copied elsewhere."""
    assert manifest.verify(checkpoint) == []
    assert manifest.verify(checkpoint.rename(checkpoint.parent / "moved")) == []


def test_one_flipped_bit_is_found(checkpoint):
    """Protects: the smallest damage, of one bit in one file, is named."""
    (checkpoint / "older" / "b.pt").write_bytes(b"y" * 50 + bytes([ord("y") ^ 1]) + b"y" * 49)

    assert manifest.verify(checkpoint) == ["older/b.pt has other bytes than when it was saved"]


def test_missing_truncated_and_added_files_are_found(checkpoint):
    """Protects: each sort of damage, all of them told at once."""
    (checkpoint / "latest").unlink()
    (checkpoint / "older" / "a.pt").write_bytes(b"x" * 99)
    (checkpoint / "older" / "c.pt").write_bytes(b"")

    assert manifest.verify(checkpoint) == [
        "latest is missing",
        "older/a.pt has other bytes than when it was saved",
        "older/c.pt was not there when the manifest was written",
    ]


def test_coreutils_verify_it_too(checkpoint):
    """Protects: the format is that of sha256sum, so that a cluster needs no Python for it."""
    shown = subprocess.check_output(["sha256sum", "-c", manifest.NAME], cwd=checkpoint, text=True)

    assert shown == "latest: OK\nolder/a.pt: OK\nolder/b.pt: OK\n"


def test_writing_again_replaces_it(checkpoint):
    """Protects: a second save into the directory is what the manifest lists afterwards."""
    (checkpoint / "latest").write_text("later")
    manifest.write(checkpoint)

    assert manifest.verify(checkpoint) == []


def test_without_a_manifest(tmp_path):
    """Protects: nothing to compare with is an error and not a pass."""
    with pytest.raises(FileNotFoundError) as caught:
        manifest.verify(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}/SHA256SUMS does not exist: call manifest.write('{tmp_path}') after saving"
    )


def test_an_empty_directory(tmp_path):
    """Protects: a manifest of nothing is refused, for it would verify anything."""
    message = (
        f"{tmp_path} holds no file to write a manifest of: give the directory that was given to"
        " save_checkpoint, after it returned"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        manifest.write(tmp_path)


def test_a_damaged_manifest(checkpoint):
    """Protects: a line cut short is an error that says so, and not a file that is skipped."""
    (checkpoint / manifest.NAME).write_text("1234  latest\n")
    message = (
        f"{checkpoint}/SHA256SUMS, line 1: '1234  latest' is not '<sha256>  <path>': the manifest"
        " itself is damaged; take the checkpoint from elsewhere"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        manifest.verify(checkpoint)
