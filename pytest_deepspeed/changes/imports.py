"""The files of a project that a module is made of: itself, and what it imports, by ``ast``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path


def closure(start: Path, roots: Sequence[Path], within: Path) -> set[Path]:
    """A module's file, and those of all modules below ``within`` that it comes to import.

    What is imported by a name that is made at run time is not found, nor is a file that is read.

    Args:
        start: the module's file.
        roots: where absolute imports are looked for, in order; the module's own directory is
            looked in too.
        within: the project's directory.
    """
    found: set[Path] = set()
    waiting = [start.resolve()]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += [
            path
            for path in _imported(file, [*roots, file.parent])
            if path.is_relative_to(within) and path not in found
        ]
    return found


def file_of(module: str, roots: Sequence[Path]) -> Path | None:
    """The file of a module, by its dotted name; ``None`` where none of the roots has it."""
    for root in roots:
        base = root.joinpath(*module.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path.resolve()
    return None


def _imported(file: Path, roots: Sequence[Path]) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name, roots)
        elif isinstance(node, ast.ImportFrom):
            yield from _of_from(node, file, roots)


def _of_from(node: ast.ImportFrom, file: Path, roots: Sequence[Path]) -> Iterator[Path]:
    if node.level:
        folder = file.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        roots = [folder]
        if (package := folder / "__init__.py").is_file():
            yield package.resolve()
    if node.module:
        yield from _with_packages(node.module, roots)
    for alias in node.names:
        name = f"{node.module}.{alias.name}" if node.module else alias.name
        if path := file_of(name, roots):
            yield path


def _with_packages(module: str, roots: Sequence[Path]) -> Iterator[Path]:
    """The module's file, and those of the packages that it lies in."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        if path := file_of(".".join(parts[:length]), roots):
            yield path
