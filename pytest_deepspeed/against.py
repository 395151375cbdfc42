"""``--ds-against REF``: a session that looks only at configs which are not what they were there.

Their tests run, and one more, ``::against``, that trains base and head side by side. What has not
changed is deselected, and test functions are not collected, unless they are named.
"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_deepspeed import collector, sharing, workloads
from pytest_deepspeed.options import SETTINGS

if TYPE_CHECKING:
    from pytest_deepspeed.changes.change import Change
    from pytest_deepspeed.changes.plan import Plan
    from pytest_deepspeed.configs.document import Document

#: What the session is about; ``None`` without the option.
PLAN: pytest.StashKey[Plan | None] = pytest.StashKey()

#: What has become of the file that an item is of.
CHANGE: pytest.StashKey[Change] = pytest.StashKey()

_WIDTH = 80

#: What a worker of xdist tells its controller.
_OUTPUT = "ds_against"

_WORDS = {"new": "all its own checks ran", "undecided": "all its own checks ran"}


def configure(config: pytest.Config) -> None:
    """Finds out what has changed, once, before anything is collected."""
    config.stash[PLAN] = None
    if ref := config.stash[SETTINGS].against:
        from pytest_deepspeed.changes.plan import Plan

        config.stash[PLAN] = plan = Plan(ref, config.rootpath, config.inipath)
        config.pluginmanager.register(Gate(config, plan), "pytest_deepspeed_gate")


def change_of(file: pytest.File, document: Document | None) -> Change | None:
    """What has become of a config, or without a document of a script; ``None`` without a base."""
    plan = file.config.stash[PLAN]
    if plan is None:
        return None
    from pytest_deepspeed.changes.plan import Surroundings

    roots = [file.config.rootpath, *(Path(entry) for entry in sys.path if entry)]
    now = Surroundings(
        settings=collector.settings_of(file.path, file.config),
        workload=workloads.reference(file),
        roots=roots,
    )
    change = plan.of_script(file.path, now) if document is None else None
    change = change or plan.of_config(file.path, document, now)  # type: ignore[arg-type]
    file.stash[CHANGE] = change
    gate: Any = file.config.pluginmanager.get_plugin("pytest_deepspeed_gate")
    gate.saw(change)
    return change


def base_tree(config: pytest.Config) -> Path:
    """The root directory of pytest as the base has it: its files are written out once."""
    plan = config.stash[PLAN]
    assert plan is not None

    def make(home: Path) -> str:
        folder = home / "tree"
        folder.mkdir(exist_ok=True)
        return str(plan.export(folder))

    return Path(sharing.once(config, "base_tree", "the base's files", make))


class Gate:
    """What the session makes of the plan, and says of it."""

    def __init__(self, config: pytest.Config, plan: Plan) -> None:
        self._config = config
        self._plan = plan
        self._kinds: dict[str, tuple[str, list[str]]] = {}
        self._told: dict[str, dict[str, str]] = {}

    def saw(self, change: Change) -> None:
        """Takes what has become of a file."""
        self._kinds[self._shown(change.path)] = (change.kind, list(change.reasons))

    def _shown(self, path: Path) -> str:
        root = self._config.rootpath
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Nothing but config files and scripts is looked at, so that nothing else is imported."""
        if collection_path.is_dir() or collector.is_ours(collection_path, config):
            return None
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselects what has not changed."""
        left = [item for item in items if not _runs(item)]
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if _runs(item)]

    def pytest_report_header(self) -> list[str]:
        """What it is compared with."""
        if self._plan.undecided:
            text = f"against {self._plan.ref}: everything runs: {self._plan.undecided}"
            return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        return [f"against: {self._plan.base}"]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the verdict of a pair."""
        if report.when == "call":
            found = dict(report.user_properties)
            if "ds_against" in found:
                self._told[report.nodeid] = {
                    "config": str(found["ds_mode"]),
                    "verdict": str(found["ds_against"]),
                    "said": str(found.get("ds_against_said", "")),
                }

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """That nothing has changed is no error: configs were found, and none had to run."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[_OUTPUT] = self._kinds
            return
        nothing = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if nothing and self._kinds and not self._plan.undecided:
            session.exitstatus = pytest.ExitCode.OK

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Takes what a worker of xdist saw."""
        seen = getattr(node, "workeroutput", {}).get(_OUTPUT, {})
        self._kinds |= {path: (kind, reasons) for path, (kind, reasons) in seen.items()}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What became of each config."""
        if lines := self.lines():
            terminalreporter.write_sep("=", f"against {self._plan.base}")
            for line in lines:
                terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """A line or two for each config that is not the same, then the others as a number."""
        lines = []
        for told in self._told.values():
            lines += _wrapped(f"{told['config']}: {told['verdict']}: {told['said']}")
        counted = Counter(kind for kind, _ in self._kinds.values())
        for path, (kind, reasons) in sorted(self._kinds.items()):
            if kind in _WORDS and not self._plan.undecided:
                lines += _wrapped(f"{path}: not compared: {'; '.join(reasons)}: {_WORDS[kind]}")
        for gone in self._plan.gone():
            if collector.is_ours(gone, self._config):
                lines += _wrapped(f"{self._shown(gone)}: gone")
        if self._plan.undecided:
            lines += _wrapped(f"not compared, everything ran: {self._plan.undecided}")
        elif same := counted["same"]:
            lines.append(f"{same} config{'s have' if same > 1 else ' has'} not changed")
        return lines


def _runs(item: pytest.Item) -> bool:
    change = item.parent.stash.get(CHANGE, None) if item.parent else None
    if change is None or change.kind in ("changed", "new", "undecided"):
        return True
    return change.kind == "text" and item.name in ("schema", "against")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
