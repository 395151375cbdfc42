"""Which configs a session has to look at, because they are not what they were in a base commit."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pytest_deepspeed.changes import ini
from pytest_deepspeed.changes.change import Base, Change, differing_settings, digest
from pytest_deepspeed.changes.imports import closure, file_of
from pytest_deepspeed.changes.repository import GitError, Repository
from pytest_deepspeed.configs import project, reading
from pytest_deepspeed.configs.document import Document
from pytest_deepspeed.configs.project import FileSettings, Project
from pytest_deepspeed.configs.unreadable import Unreadable
from pytest_deepspeed.training.workload.source import HOOK


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a config's training depends on, beside the config.

    Attributes:
        settings: what ``pyproject.toml`` says of it.
        workload: the reference of the user's own workload; empty for the trap model.
        roots: directories that modules are imported from.
    """

    settings: FileSettings
    workload: str
    roots: Sequence[Path]


class Plan:
    """What has changed since another commit.

    Args:
        ref: names it: HEAD is compared with where it parted from that.
        root: pytest's root directory.
        inipath: pytest's ini file, if there is one.

    Attributes:
        undecided: why nothing can be compared, and everything has to run; empty where it can.
        commit: the base; empty where it is undecided.
    """

    def __init__(self, ref: str, root: Path, inipath: Path | None) -> None:
        self.ref = ref
        self.undecided = self.commit = self._short = ""
        self._root = root
        self._inipath = inipath
        self._project: Project | None = None
        self._ini: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        try:
            self._repository = Repository(root)
            self.commit = self._repository.merge_base(ref)
            self._short = self._repository.short(self.commit)
            self._differing = self._repository.differing(self.commit)
            self._gone = self._repository.gone(self.commit)
            self._project = self._base_project()
            self._ini = self._both_inis()
        except (GitError, project.ProjectError) as error:
            self.undecided = str(error)

    @property
    def base(self) -> str:
        """The base, as it is shown: ``origin/main (1a2b3c4)``."""
        return f"{self.ref} ({self._short})" if self._short else self.ref

    def gone(self) -> list[Path]:
        """Files of the base that are there no more, under any name."""
        return [] if self.undecided else [self._repository.root / path for path in self._gone]

    def export(self, folder: Path) -> Path:
        """Writes the base's files to a directory; where pytest's root directory is in it."""
        self._repository.export(self.commit, folder)
        return folder / self._root.relative_to(self._repository.root)

    def of_config(self, path: Path, document: Document, now: Surroundings) -> Change:
        """What has become of a config, and of what it depends on."""
        if self.undecided:
            return Change(path, "undecided", (self.undecided,))
        shown = self._from_root(path)
        was = self._differing.get(shown, shown)
        text = self._repository.read(self.commit, was) if was else None
        if text is None:
            return Change(path, "new", ("it is new",))
        try:
            before = reading.parse(text.decode("utf-8"))
        except (Unreadable, UnicodeDecodeError) as error:
            return Change(path, "undecided", (f"what it was cannot be read: {error}",))
        code = self._changed_code(now)
        base = Base(
            path=was,
            document=before,
            settings=self._settings(was),
            workload=str(self._ini_value(0, "ds_workload", now.workload)),
            world_size=_size(self._ini[0].get("ds_world_size")),
            code=bool(code),
        )
        return self._compared(path, was, base, document, now, code)

    def of_script(self, path: Path, now: Surroundings) -> Change:
        """What has become of a script, and of what it imports. Two of them are not compared."""
        if self.undecided:
            return Change(path, "undecided", (self.undecided,))
        found = self._changed(closure(path, now.roots, self._repository.root))
        settings = differing_settings(self._settings(self._from_root(path)), now.settings)
        if not found and not settings:
            return Change(path, "same")
        changed = tuple(f"{file} has changed" for file in found)
        return Change(path, "undecided", (*changed, *settings, "scripts are not compared"))

    def _compared(
        self,
        path: Path,
        was: str,
        base: Base,
        document: Document,
        now: Surroundings,
        code: list[str],
    ) -> Change:
        shown = self._from_root(path)
        moved = [f"it was {was}"] if was != shown else []
        settings = differing_settings(base.settings, now.settings)
        inis = self._differing_inis()
        config = ["its values have changed"] if base.document.data != document.data else []
        coded = [f"{file} has changed" for file in code]
        if coded and now.workload.startswith(HOOK):
            why = "what a hook of another commit would bring cannot be had"
            return Change(path, "undecided", (*coded, why))
        reasons = (*moved, *config, *settings, *inis, *coded)
        if not reasons:
            same = base.document.text == document.text
            return Change(path, "same" if same else "text", (), base)
        of_code = [
            [self._digest_of(file), digest(_text(self._repository.root / file))] for file in code
        ]
        parts = (base.document.data, document.data, settings, inis, of_code)
        return Change(path, "changed", reasons, base, digest(*parts))

    def _changed_code(self, now: Surroundings) -> list[str]:
        """Files of the workload that have changed, from the repository's root."""
        if not now.workload:
            return []
        if now.workload.startswith(HOOK):
            files = [Path(file) for file in now.workload.removeprefix(HOOK).split(", ")]
        else:
            file = file_of(now.workload.partition(":")[0], now.roots)
            files = [file] if file else []
        inside = [file for file in files if file.is_relative_to(self._repository.root)]
        found = {path for file in inside for path in self._closure(file, now.roots)}
        return self._changed(found)

    def _closure(self, file: Path, roots: Sequence[Path]) -> set[Path]:
        return closure(file, roots, self._repository.root)

    def _changed(self, files: Collection[Path]) -> list[str]:
        inside = [file for file in files if file.is_relative_to(self._repository.root)]
        return sorted(set(map(self._from_root, inside)) & set(self._differing))

    def _digest_of(self, file: str) -> str:
        return digest((self._repository.read(self.commit, file) or b"").hex())

    def _from_root(self, path: Path) -> str:
        return path.resolve().relative_to(self._repository.root.resolve()).as_posix()

    def _settings(self, path: str) -> FileSettings:
        """What the base's ``pyproject.toml`` said of a file."""
        if self._project is None:
            return FileSettings()
        place = (self._repository.root / path).relative_to(self._root)
        return self._project.of(self._project.root / place)

    def _base_project(self) -> Project | None:
        text = self._repository.read(self.commit, self._from_root(self._root / "pyproject.toml"))
        if text is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "pyproject.toml").write_bytes(text)
            return project.read(Path(folder))

    def _both_inis(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the ini file said, and what it says."""
        path = self._inipath
        if path is None or not path.resolve().is_relative_to(self._repository.root.resolve()):
            return {}, {}
        before = self._repository.read(self.commit, self._from_root(path)) or b""
        now = _text(path)
        was = before.decode("utf-8", "replace")
        return ini.of_text(path.name, was), ini.of_text(path.name, now)

    def _differing_inis(self) -> list[str]:
        was, now = self._ini
        return [
            f"{key} in the ini file is {now.get(key)}, and was {was.get(key)}"
            for key in sorted({*was, *now})
            if was.get(key) != now.get(key)
        ]

    def _ini_value(self, side: int, key: str, otherwise: str) -> str:
        """A key of one side's ini file where the sides differ in it; else what holds now."""
        was, now = self._ini
        return str(self._ini[side].get(key, "")) if was.get(key) != now.get(key) else otherwise


def _size(value: Any) -> int | None:
    return int(value) if str(value).isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
