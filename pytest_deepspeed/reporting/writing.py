"""Renders a report into each format that is asked for, and writes the files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from pytest_deepspeed.reporting import (
    as_json,
    codequality,
    github,
    html,
    markdown,
    sarif,
)
from pytest_deepspeed.reporting.model import Report
from pytest_deepspeed.reporting.targets import Target

RENDERERS: dict[str, Callable[[Report], str]] = {
    "html": html.render,
    "md": markdown.render,
    "sarif": sarif.render,
    "codequality": codequality.render,
    "json": as_json.render,
}


def write(report: Report, targets: tuple[Target, ...], *, narrow: bool = False) -> list[str]:
    """Writes each; one that cannot be written hinders no other.

    Args:
        narrow: as of `github.lines`.

    Returns:
        What the terminal says: a line for each file, and GitHub's annotations.
    """
    lines: list[str] = []
    for target in targets:
        if target.path is None:
            lines += github.lines(report, narrow=narrow)
            continue
        shown = os.path.relpath(target.path)
        try:
            put(target.path, RENDERERS[target.format](report))
        except OSError as error:
            why = error.strerror or str(error)
            lines.append(
                f"deepspeed report not written: {shown}: {why}:"
                f" name another file, --ds-report={target.format}:FILE"
            )
        else:
            lines.append(f"deepspeed report: {shown}")
    return lines


def put(path: Path, text: str) -> None:
    """Writes a file that is there whole or as it was; makes its directory.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
