"""The tests of one config file: its schema, and the checks that train under it."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed import workloads
from pytest_deepspeed.case import Case
from pytest_deepspeed.configs import (
    fixing,
    huggingface,
    known,
    lint,
    reading,
    suppression,
    writing,
)
from pytest_deepspeed.configs.document import Document
from pytest_deepspeed.configs.problem import Problem
from pytest_deepspeed.configs.project import FileSettings
from pytest_deepspeed.configs.rule import RULES, Rule
from pytest_deepspeed.configs.subject import Subject
from pytest_deepspeed.configs.unreadable import printable
from pytest_deepspeed.errors import DsConfigWarning
from pytest_deepspeed.limits import limits_of_item
from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.reporting import details
from pytest_deepspeed.values import modes
from pytest_deepspeed.values.finding import Check
from reference_training.traits import HIDDEN

#: DeepSpeed empties the directory, which another job may use.
_SWAPS = "nvme_path: a directory of the test is swapped to in its place, and removed after it"

#: An edit that meets another one waits for the next round.
_FIXES = 4


class ProblemsFound(Exception):
    """Errors of a config; the text is what is shown."""


class ConfigItem(pytest.Item):
    """A test of a config file, or of a script."""

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The whole file; the name that stands above a failure."""
        return self.path, None, f"{self.shown_path}::{self.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The text alone where the config is at fault."""
        if isinstance(excinfo.value, ProblemsFound):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    @property
    def shown_path(self) -> str:
        """The file, from where pytest was called."""
        return os.path.relpath(self.path, self.config.invocation_params.dir)

    def warn_of(self, problems: list[Problem]) -> None:
        """Warns of those that are no errors, at their lines."""
        for problem in problems:
            if problem.severity == "warning":
                text = f"{problem.column}: {problem.rule} {problem.message}"
                warnings.warn_explicit(DsConfigWarning(text), None, str(self.path), problem.line)

    def tell(self, name: str, value: object) -> None:
        """Adds a property to the report, once."""
        if (name, value) not in self.user_properties:
            self.user_properties.append((name, value))


class UnreadableItem(ConfigItem):
    """A file that cannot be read as a config."""

    def __init__(self, *, error: reading.Unreadable, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._error = error

    def runtest(self) -> None:
        """Fails."""
        error = self._error
        where = f"{self.shown_path}:{error.line}:{error.column}"
        rule = RULES[error.rule]
        place = (error.line, error.column, ())
        said = (error.does, error.instead)
        details.problem(self, Problem(rule.id, rule.name, rule.severity, *place, *said))
        lines = paragraph(where, rule, error.shown, error.does, error.instead)
        raise ProblemsFound("\n".join(lines))


class SchemaItem(ConfigItem):
    """What the rules say of a config; no process is started."""

    def __init__(self, *, document: Document, own: FileSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ds_config = document.data
        self._document = document
        self._own = own

    def runtest(self) -> None:
        """Fails where a rule finds an error; warns of what it finds else."""
        settings: Settings = self.config.stash[SETTINGS]
        problems = self._problems(self._document)
        if settings.fix:
            problems = self._fix(problems)
        self.tell("ds_check", "schema")
        self.tell("ds_mode", self.shown_path)
        self.tell("ds_world_size", settings.world_size or (self._own.world_sizes or (2,))[0])
        for problem in problems:
            details.problem(self, problem)
        errors = [problem for problem in problems if problem.severity == "error"]
        self.warn_of(problems)
        if fixable := sum(bool(problem.edits) for problem in errors):
            self.tell("ds_fixable", fixable)
        if errors:
            raise ProblemsFound("\n".join(self._lines(self._document, errors)))

    def _problems(self, document: Document) -> list[Problem]:
        own = self._own
        declared = (*own.target_world_sizes, *own.world_sizes)
        subject = Subject(
            document=document,
            path=self.path,
            known=known.load(),
            world_sizes=tuple(dict.fromkeys(declared)),
            nodes=own.nodes,
            device=own.device,  # type: ignore[arg-type]
            huggingface=own.huggingface,
        )
        found = [problem for problem in lint.lint(subject) if own.reports(problem.rule)]
        kept, suppressed = suppression.apply(document, found)
        for problem, reason in suppressed:
            self.tell("ds_suppressed", f"{problem.line}: {problem.rule} {problem.name}: {reason}")
            details.problem(self, problem, reason)
        return kept

    def _fix(self, problems: list[Problem]) -> list[Problem]:
        """Mends errors until no mending is left that does not meet another one; writes once."""
        before = document = self._document
        for _ in range(_FIXES):
            errors = [problem for problem in problems if problem.severity == "error"]
            fixed = fixing.fix(document, errors)
            if not fixed.applied:
                break
            document = reading.parse(fixed.text)
            problems = self._problems(document)
        try:
            writing.write(self.path, before, document.text)
        except (writing.FileChangedError, OSError) as error:
            raise ProblemsFound(str(error)) from None
        if document is not before:
            self.tell("ds_diff", fixing.diff(self.shown_path, before.text, document.text))
        self._document = document
        return problems

    def _lines(self, document: Document, errors: list[Problem]) -> list[str]:
        lines = []
        for problem in errors:
            where = f"{self.shown_path}:{problem.line}:{problem.column}"
            shown = (
                printable(document.line(problem.line).strip().expandtabs()) if problem.at else ""
            )
            rule = RULES[problem.rule]
            lines += [*paragraph(where, rule, shown, problem.does, problem.instead), ""]
        lines.append(f"{len(errors)} error{'s' * (len(errors) > 1)} in {self.shown_path}")
        if fixable := sum(bool(problem.edits) for problem in errors):
            them = "it" if len(errors) == 1 else f"{fixable} of them"
            lines.append(f"mend {them}: pytest --ds-fix {self.shown_path}")
        return lines


def paragraph(where: str, rule: Rule, shown: str, does: str, instead: str) -> list[str]:
    """What is wrong, as it is shown: where, the line, what is done with it, what to write."""
    lines = [f"{where}: {rule.id} {rule.name}"]
    lines += [f"    {shown.strip()}"] if shown.strip() else []
    for sentence in (does, instead):
        if sentence:
            end = "" if sentence.endswith("?") else "."
            text = f"{_capital(sentence)}{end}"
            lines += textwrap.wrap(
                text,
                78,
                initial_indent="  ",
                subsequent_indent="  ",
                break_on_hyphens=False,
                break_long_words=False,
            )
    return [*lines, f"  (more: python -m pytest_deepspeed.explain {rule.id})"]


def _capital(sentence: str) -> str:
    """With a capital letter, unless it starts with a name: `nvme_path`, `configure_model`."""
    first = sentence.split(maxsplit=1)[0]
    return sentence[0].upper() + sentence[1:] if first.isalpha() else sentence


class TrainedItem(ConfigItem):
    """A check that trains under a config."""

    def __init__(
        self,
        *,
        check: Check,
        document: Document,
        own: FileSettings,
        world_size: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ds_config = document.data
        # Like a test function that asks for it: what looks for tests that start worlds finds it.
        self.fixturenames = ["ds_check"]
        self._check = check
        self._own = own
        self._world_size = world_size

    def runtest(self) -> None:
        """Fails where the check finds something."""
        __tracebackhide__ = True
        from pytest_deepspeed.checking import DsCheck
        from pytest_deepspeed.fixtures import DsRun, need_controller

        need_controller(self, f"the check {self._check!r}")
        DsCheck(self, DsRun(self), lambda _: self._case())(self._check)

    def _case(self) -> Case:
        return self.case_of(self.ds_config, self._own, self._world_size)

    def case_of(self, ds_config: Mapping[str, Any], own: FileSettings, world_size: int) -> Case:
        """What is checked of this file, with a config, settings and a size that it may have had."""
        from pytest_deepspeed.training import nvme
        from pytest_deepspeed.training.fitting import fitted
        from pytest_deepspeed.training.memory.limits import Limits

        settings: Settings = self.config.stash[SETTINGS]
        workload = workloads.reference(self)
        hidden_size = own.hidden_size or (None if workload else HIDDEN)
        filled, said = self._filled(ds_config, own, world_size, hidden_size)
        config, changes = fitted(
            filled,
            device=settings.device,
            world_size=world_size,
            brings_optimizer=bool(workload),
        )
        case_id = modes.case_id(config)
        limits = limits_of_item(self, case_id=case_id, config_path=self.shown_path)
        where = dict.fromkeys(own.limit_rank_memory, "limit_rank_memory in pyproject.toml")
        return Case(
            ds_config=config,
            shown=self.shown_path,
            changes=(*said, *changes),
            world_size=world_size,
            limits=Limits({**limits.sizes, **own.limit_rank_memory}, {**limits.sources, **where}),
            notes=(_SWAPS,) if nvme.asked(config) else (),
            steps=own.steps,
            tolerances=own.tolerances,
            workload=workload,
            strict=False,
            of_file=True,
        )

    def _filled(
        self,
        ds_config: Mapping[str, Any],
        own: FileSettings,
        world_size: int,
        hidden_size: int | None,
    ) -> tuple[dict[str, Any], list[str]]:
        """The config with what Hugging Face fills in, unless it does not."""
        if own.huggingface is False:
            return dict(ds_config), []
        try:
            return huggingface.fill(
                ds_config,
                hidden_size=hidden_size,
                world_size=world_size,
                **own.training_arguments,
            )
        except ValueError as error:
            raise ProblemsFound(f"{self.shown_path}: {error}") from None
