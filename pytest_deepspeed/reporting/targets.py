"""What ``--ds-report`` asks for: formats and files."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

#: Each format with the endings of a file that is taken for one.
FORMATS: dict[str, tuple[str, ...]] = {
    "html": (".html", ".htm"),
    "md": (".md", ".markdown"),
    "sarif": (".sarif", ".sarif.json"),
    "codequality": (),
    "json": (".json",),
    "github": (),
}

_HELP = (
    "give a file that ends in .html, .md, .sarif or .json, or say what it shall be: html:FILE,"
    " md:FILE, sarif:FILE, json:FILE, codequality:FILE; github takes no file"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """One report.

    Attributes:
        format: of `FORMATS`.
        path: where it is written, absolute; ``None`` for ``github``, which is printed.
    """

    format: str
    path: Path | None


def parse(text: str, where: str) -> tuple[Target, ...]:
    """The reports that a text asks for, comma-separated or a line each.

    Raises:
        pytest.UsageError: one is not known, or cannot be written.
    """
    found: list[Target] = []
    for part in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
        target = _target(part, where)
        if target.path is not None and target.path in (other.path for other in found):
            raise pytest.UsageError(f"{where}: two reports in one file: {part}: name another file")
        if target not in found:
            found.append(target)
    return tuple(found)


def _target(part: str, where: str) -> Target:
    if part == "github":
        return Target("github", None)
    prefix, colon, rest = part.partition(":")
    if colon and prefix in FORMATS and prefix != "github" and rest:
        return Target(prefix, _path(rest, part, where))
    endings = {ending: name for name, all_of_it in FORMATS.items() for ending in all_of_it}
    for ending in sorted(endings, key=len, reverse=True):
        if part.endswith(ending) and not colon:
            return Target(endings[ending], _path(part, part, where))
    raise pytest.UsageError(f"{where}: unknown report {part!r}: {_HELP}")


def _path(text: str, part: str, where: str) -> Path:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        raise pytest.UsageError(f"{where}: {part} is a directory: name a file in it")
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "is no directory" if not above.is_dir() else "cannot be written"
        raise pytest.UsageError(f"{where}: {part}: {above} {what}: name a file elsewhere")
    return path
