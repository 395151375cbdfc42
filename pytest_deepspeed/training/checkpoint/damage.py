"""A checkpoint damaged on purpose, as disks and interrupted copies damage them."""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path


def damaged_copy(kind: str, source: Path, tag: str, target: Path) -> tuple[str, ...]:
    """Copies the checkpoint directory ``source`` to ``target`` and damages ``tag`` there.

    All ranks' files of a sort are damaged alike, so that all ranks meet the damage and none waits
    for the others in a collective.

    Args:
        kind: one of `KINDS`.
        source: the directory given to `save_checkpoint`.
        tag: the tag that will be loaded.
        target: a directory that does not exist.

    Returns:
        the damaged files, relative to ``target``.
    """
    shutil.copytree(source, target)
    files = [target / "latest"] if kind == "missing_latest" else shards(target / tag)
    for file in files:
        KINDS[kind](file)
    return tuple(file.relative_to(target).as_posix() for file in files)


def shards(directory: Path) -> list[Path]:
    """The files of a tag that hold its fp32 state: ZeRO's optimizer shards, else the module's."""
    return sorted(directory.glob("*_optim_states.pt")) or sorted(
        directory.glob("*_model_states.pt")
    )


def _truncate(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def _flip(file: Path) -> None:
    """Inverts a byte in the middle of the largest tensor, which `torch.load` reads in silence.

    `torch.save` writes an uncompressed zip with a CRC per entry, which `torch.load` does not check.
    """
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    entry = max(entries, key=lambda candidate: candidate.file_size)
    with file.open("r+b") as opened:
        # Local file header, APPNOTE.TXT 4.3.7: 30 bytes, of which the last four are the lengths of
        # the name and of the extra field that follow it.
        opened.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", opened.read(4))
        offset = entry.header_offset + 30 + name + extra + entry.file_size // 2
        opened.seek(offset)
        value = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([value ^ 0xFF]))


#: What is done to each damaged file.
KINDS: dict[str, Callable[[Path], None]] = {
    "truncated_shards": _truncate,
    "missing_shards": Path.unlink,
    "missing_latest": Path.unlink,
    "flipped_byte": _flip,
}
