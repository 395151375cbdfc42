"""Digests of a checkpoint's files, since DeepSpeed and `torch.load` check none.

The format is that of coreutils: in the directory, ``sha256sum -c SHA256SUMS`` verifies it too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

#: The manifest's name in the directory whose files it lists.
NAME = "SHA256SUMS"


def write(directory: str | Path) -> Path:
    """Writes the sha256 of every file below ``directory`` into its manifest, in place of an old.

    Call it on one rank, after `save_checkpoint` returned on all.

    Returns:
        the manifest.

    Raises:
        ValueError: the directory holds no file.
    """
    directory = Path(directory)
    files = _files(directory)
    if not files:
        raise ValueError(
            f"{directory} holds no file to write a manifest of: give the directory that was given"
            " to save_checkpoint, after it returned"
        )
    manifest = directory / NAME
    lines = [f"{_digest(directory / name)}  {name}\n" for name in files]
    manifest.write_text("".join(lines), encoding="utf-8")
    return manifest


def verify(directory: str | Path) -> list[str]:
    """Compares the files below ``directory`` with its manifest.

    Returns:
        one sentence for each file that is missing, was changed or was added since; empty where the
        checkpoint is what was saved.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the manifest has a line that is not "<sha256>  <path>".
    """
    directory = Path(directory)
    manifest = directory / NAME
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest} does not exist: call manifest.write({str(directory)!r}) after saving"
        )
    expected = _read(manifest)
    found = set(_files(directory))
    problems = []
    for name, digest in expected.items():
        if name not in found:
            problems.append(f"{name} is missing")
        elif _digest(directory / name) != digest:
            problems.append(f"{name} has other bytes than when it was saved")
    problems += [
        f"{name} was not there when the manifest was written" for name in found - set(expected)
    ]
    return sorted(problems)


def _files(directory: Path) -> list[str]:
    paths = (path for path in directory.rglob("*") if path.is_file() and path.name != NAME)
    return sorted(path.relative_to(directory).as_posix() for path in paths)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(manifest: Path) -> dict[str, str]:
    expected = {}
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if not separator or not name or len(digest) != 64:
            raise ValueError(
                f"{manifest}, line {number}: {line!r} is not '<sha256>  <path>': the manifest"
                " itself is damaged; take the checkpoint from elsewhere"
            )
        expected[name] = digest
    return expected
