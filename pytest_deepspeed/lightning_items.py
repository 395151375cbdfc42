"""Lightning scripts as test files: ``train.py::schema``, ``::parity``, ``::checkpoint`` ...

Collecting reads no script. ``schema`` reads it by `ast` and starts no process; the other checks run
it on ranks.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_deepspeed.config_items import ConfigItem, ProblemsFound, paragraph
from pytest_deepspeed.configs.lightning import lint, reading, suppression
from pytest_deepspeed.configs.lightning.script import Script
from pytest_deepspeed.configs.problem import Problem
from pytest_deepspeed.configs.project import FileSettings
from pytest_deepspeed.configs.rule import RULES, SCRIPT_RULES
from pytest_deepspeed.configs.unreadable import Unreadable, printable
from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.reporting import details
from pytest_deepspeed.values.finding import Check


def items(
    file: pytest.File, checks: list[str], own: FileSettings, world_sizes: list[int]
) -> Iterator[pytest.Item]:
    """The checks of a script."""
    for check in checks:
        if check == "schema":
            yield ScriptItem.from_parent(file, name=check, own=own)
        # Lightning loads no universal checkpoint, and two scripts are not compared.
        elif check not in ("reshard", "against"):
            for size in world_sizes:
                name = check if len(world_sizes) == 1 else f"{check}[world_size_{size}]"
                yield TrainedScriptItem.from_parent(
                    file, name=name, check=check, own=own, world_size=size
                )


class ScriptItem(ConfigItem):
    """What the rules say of a script; it is not run."""

    def __init__(self, *, own: FileSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._own = own
        self.add_marker("lightning")

    def runtest(self) -> None:
        """Fails where a rule finds an error; warns of what it finds else."""
        self.tell("ds_check", "schema")
        self.tell("ds_mode", self.shown_path)
        settings: Settings = self.config.stash[SETTINGS]
        self.tell("ds_world_size", settings.world_size or (self._own.world_sizes or (2,))[0])
        try:
            script = reading.read(self.path)
        except Unreadable as error:
            problem = lint.unreadable(error)
            details.problem(self, problem)
            raise ProblemsFound("\n".join(self._lines(None, [problem]))) from None
        problems = self._problems(script)
        for problem in problems:
            details.problem(self, problem)
        errors = [problem for problem in problems if problem.severity == "error"]
        self.warn_of(problems)
        if errors:
            raise ProblemsFound("\n".join(self._lines(script, errors)))

    def _problems(self, script: Script) -> list[Problem]:
        own = self._own
        declared = (*own.target_world_sizes, *own.world_sizes)
        found = lint.problems(
            script,
            world_sizes=tuple(dict.fromkeys(declared)),
            nodes=own.nodes,
            device=own.device,  # type: ignore[arg-type]
        )
        reported = [problem for problem in found if own.reports(problem.rule)]
        kept, suppressed = suppression.apply(script, reported)
        for problem, reason in suppressed:
            self.tell("ds_suppressed", f"{problem.line}: {problem.rule} {problem.name}: {reason}")
            details.problem(self, problem, reason)
        return kept

    def _lines(self, script: Script | None, errors: list[Problem]) -> list[str]:
        lines = []
        for problem in errors:
            where = f"{self.shown_path}:{problem.line}:{problem.column}"
            shown = script.document.line(problem.line).strip() if script else ""
            rule = (RULES | SCRIPT_RULES)[problem.rule]
            lines += [
                *paragraph(
                    where, rule, printable(shown.expandtabs()), problem.does, problem.instead
                ),
                "",
            ]
        lines.append(f"{len(errors)} error{'s' * (len(errors) > 1)} in {self.shown_path}")
        return lines


class TrainedScriptItem(ConfigItem):
    """A check that runs a script on ranks."""

    def __init__(self, *, check: Check, own: FileSettings, world_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Like a test function that asks for it: what looks for tests that start worlds finds it.
        self.fixturenames = ["ds_check"]
        self._check = check
        self._own = own
        self._world_size = world_size
        self.add_marker("lightning")

    def runtest(self) -> None:
        """Fails where the check finds something."""
        __tracebackhide__ = True
        from pytest_deepspeed.checking import DsCheck
        from pytest_deepspeed.fixtures import DsRun, need_controller
        from pytest_deepspeed.lightning_case import case_of_lightning

        need_controller(self, f"the check {self._check!r}")
        own = self._own
        DsCheck(
            self,
            DsRun(self),
            lambda studies: case_of_lightning(
                self,
                shlex.join([self.shown_path, *own.arguments]),
                studies,
                world_size=self._world_size,
                shown=self.shown_path,
                own=own,
            ),
        )(self._check)


class ScriptFile(pytest.File):
    """A Lightning script."""

    def collect(self) -> Iterator[pytest.Item]:
        """The checks of this script."""
        from pytest_deepspeed import against
        from pytest_deepspeed.collector import settings_of, wanted

        against.change_of(self, None)
        settings: Settings = self.config.stash[SETTINGS]
        own = settings_of(self.path, self.config)
        sizes = [settings.world_size] if settings.world_size else list(own.world_sizes or [2])
        yield from items(self, wanted(own, settings), own, sizes)
