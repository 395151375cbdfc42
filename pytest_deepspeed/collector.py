"""Config files as test files: ``ds_config.json::schema``, ``::parity``, ``::checkpoint`` ...

Collecting reads the files, imports no torch and starts no process. A session without configs
imports nothing for them.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_deepspeed.options import SETTINGS, Settings

if TYPE_CHECKING:
    from pytest_deepspeed.configs.project import FileSettings, Project

INI = "ds_config_files"
DEFAULT_PATTERNS = ["ds_config*.json"]

#: What other collectors take where such a file is named on the command line.
_OF_OTHERS = (".py", ".txt", ".rst", ".md", ".ini", ".toml", ".cfg", ".yaml", ".yml")

SCRIPT_INI = "ds_lightning_files"

_PROJECT: pytest.StashKey[Project | None] = pytest.StashKey()


def add_ini(parser: pytest.Parser) -> None:
    """The ini key of the patterns."""
    parser.addini(
        INI,
        type="args",
        default=DEFAULT_PATTERNS,
        help="names of DeepSpeed configs, which are collected as tests, as patterns of names or of"
        f" paths from the root directory (default: {' '.join(DEFAULT_PATTERNS)})",
    )
    parser.addini(
        SCRIPT_INI,
        type="args",
        default=[],
        help="names of Lightning scripts that train with DeepSpeed, which are collected as tests,"
        " as patterns of names or of paths from the root directory (default: none)",
    )


def configure(config: pytest.Config) -> None:
    """Reads what ``pyproject.toml`` says.

    Raises:
        pytest.UsageError: a key of it is wrong, whether or not a config is collected.
    """
    config.stash[_PROJECT] = None
    file = config.rootpath / "pyproject.toml"
    try:
        if b"pytest_deepspeed" not in file.read_bytes():
            return
    except OSError:
        return
    from pytest_deepspeed.configs import project

    try:
        config.stash[_PROJECT] = project.read(config.rootpath)
    except project.ProjectError as error:
        raise pytest.UsageError(str(error)) from None


def collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    """The collector of a config, or of a Lightning script; ``None`` of another file."""
    if file_path.suffix == ".py":
        # The others are Python's own collector's, which asks `make_module`.
        modules = parent.config.getini("python_files")
        named = any(fnmatch.fnmatch(file_path.name, pattern) for pattern in modules)
        if named or parent.session.isinitpath(file_path):
            return None
        return make_module(file_path, parent)
    if _matches(file_path, parent.config):
        return DsConfigFile.from_parent(parent, path=file_path)
    if parent.session.isinitpath(file_path) and file_path.suffix not in _OF_OTHERS:
        return DsConfigFile.from_parent(parent, path=file_path)
    return None


def is_ours(path: Path, config: pytest.Config) -> bool:
    """Whether a file, which may be gone, has the name of a config or of a Lightning script."""
    return _matches(path, config, SCRIPT_INI if path.suffix == ".py" else INI)


def make_module(path: Path, parent: pytest.Collector) -> pytest.File | None:
    """The collector of a Lightning script, which Python's own would import; else ``None``."""
    if not _matches(path, parent.config, SCRIPT_INI):
        return None
    from pytest_deepspeed.lightning_items import ScriptFile

    return ScriptFile.from_parent(parent, path=path)


def settings_of(path: Path, config: pytest.Config) -> FileSettings:
    """What ``pyproject.toml`` says of a file."""
    from pytest_deepspeed.configs.project import FileSettings

    said = project_of(config)
    return said.of(path) if said else FileSettings()


def project_of(config: pytest.Config) -> Project | None:
    """What ``pyproject.toml`` says; ``None`` where it says nothing."""
    return config.stash[_PROJECT]


def _matches(path: Path, config: pytest.Config, ini: str = INI) -> bool:
    shown = os.path.relpath(path, config.rootpath)
    patterns = config.getini(ini)
    return any(fnmatch.fnmatch(path.name, p) or fnmatch.fnmatch(shown, p) for p in patterns)


class DsConfigFile(pytest.File):
    """A config; one that cannot be read is one failing test."""

    def collect(self) -> Iterator[pytest.Item]:
        """The checks of this config."""
        from pytest_deepspeed import against
        from pytest_deepspeed.against_items import AgainstItem
        from pytest_deepspeed.config_items import SchemaItem, TrainedItem, UnreadableItem
        from pytest_deepspeed.configs import known, reading
        from pytest_deepspeed.configs.recognition import looks_like_deepspeed

        settings: Settings = self.config.stash[SETTINGS]
        own = settings_of(self.path, self.config)
        try:
            document = reading.read(self.path)
        except reading.Unreadable as error:
            yield UnreadableItem.from_parent(self, name="schema", error=error)
            return
        try:
            known_keys = known.load()
        except known.SourceUnknown as error:
            raise self.CollectError(str(error)) from None
        named = self.session.isinitpath(self.path)
        if not named and not looks_like_deepspeed(document.data, known_keys):
            return
        change = against.change_of(self, document)
        sizes = [settings.world_size] if settings.world_size else own.world_sizes or [2]
        given = {"document": document, "own": own}
        for check in wanted(own, settings):
            if check == "schema":
                yield SchemaItem.from_parent(self, name=check, **given)
                continue
            for size in sizes:
                name = check if len(sizes) == 1 else f"{check}[world_size_{size}]"
                here = {"name": name, "world_size": size, **given}
                if check != "against":
                    yield TrainedItem.from_parent(self, check=check, **here)
                elif change is not None and change.base is not None:
                    yield AgainstItem.from_parent(self, change=change, **here)


def wanted(own: FileSettings, settings: Settings) -> list[str]:
    """The checks of a file; ``--ds-fix`` is about its schema, whatever else is asked for."""
    if settings.fix:
        return ["schema"]
    return [check for check in own.checks if not settings.checks or check in settings.checks]


class OddEntry(pytest.File):
    """What has the name of a config and is no file: pytest passes over it without a word."""

    def collect(self) -> Iterator[pytest.Item]:
        """One failing test, that says what it is."""
        from pytest_deepspeed.config_items import UnreadableItem
        from pytest_deepspeed.configs import reading

        try:
            reading.read(self.path)
        except reading.Unreadable as error:
            yield UnreadableItem.from_parent(self, name="schema", error=error)


def collect_odd_entries(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Adds to a directory's report what pytest has left out of it."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.passed:
        for path in _odd_entries(collector.path, collector.config):
            report.result.append(OddEntry.from_parent(collector, path=path))
    return report


def _odd_entries(folder: Path, config: pytest.Config) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not _is_file(entry)]
    except OSError:
        return
    for name in sorted(names):
        if _matches(folder / name, config):
            yield folder / name


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False
