"""The rules: what one is, and all there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.configs.problem import Found, Severity
from pytest_deepspeed.configs.subject import Subject

if TYPE_CHECKING:
    from pytest_deepspeed.configs.lightning.script import Script

Check = Callable[[Subject], Iterator[Found]]
ScriptCheck = Callable[["Script"], Iterator[Found]]

#: The families, by the first digit of their rules' ids.
FAMILIES = {
    "0": "files",
    "1": "keys",
    "2": "values",
    "3": "combinations",
    "4": "batch arithmetic",
    "5": "deprecated and removed",
    "6": "ignored without a word",
    "7": "paths and NVMe",
    "8": "precision and device",
    "9": "checkpoints and defaults",
}

#: The families of the rules about Lightning scripts, likewise.
SCRIPT_FAMILIES = {
    "0": "scripts",
    "1": "command line",
    "2": "arguments of the strategy",
    "3": "the model",
    "4": "the trainer and its data",
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: stable: ``"DS101"``; the digit after DS is its family. ``"PL101"`` is about a script.
        name: says what it finds: ``"unknown-key"``.
        severity: of what it finds.
        summary: one sentence, the first line of its function's docstring.
        source: where DeepSpeed does what it is about: file and line of 0.19.8, or an issue; of a
            rule about scripts, where Lightning does: file and function of 2.6.
        check: yields what it finds in a config, or in a script.
    """

    id: str
    name: str
    severity: Severity
    summary: str
    source: str
    check: Callable[[Any], Iterator[Found]]

    @property
    def family(self) -> str:
        """One of `FAMILIES`, or of `SCRIPT_FAMILIES`."""
        return (SCRIPT_FAMILIES if self.id.startswith("PL") else FAMILIES)[self.id[2]]

    @property
    def page(self) -> str:
        """The page that explains it."""
        return f"docs/rules/{self.id}-{self.name}.md"


#: By id; filled where the modules of `pytest_deepspeed.configs.rules` are imported.
RULES: dict[str, Rule] = {}

#: The rules about scripts, by id; filled by `pytest_deepspeed.configs.lightning.rules`.
SCRIPT_RULES: dict[str, Rule] = {}


def rule(id: str, name: str, severity: Severity, *, source: str) -> Callable[[Check], Check]:  # noqa: A002
    """Makes a rule of a function that yields what it finds; its docstring is the summary."""

    def register(check: Check) -> Check:
        _add(RULES, id, name, severity, source, check)
        return check

    return register


def script_rule(
    id: str,  # noqa: A002
    name: str,
    severity: Severity,
    *,
    source: str,
) -> Callable[[ScriptCheck], ScriptCheck]:
    """The same of a function that takes a script; what it finds is at `Script.at`."""

    def register(check: ScriptCheck) -> ScriptCheck:
        _add(SCRIPT_RULES, id, name, severity, source, check)
        return check

    return register


def _add(
    rules: dict[str, Rule],
    id_: str,
    name: str,
    severity: Severity,
    source: str,
    check: Callable[..., Iterator[Found]],
) -> None:
    if id_ in rules:
        raise ValueError(f"there is a rule {id_} already: {rules[id_].name}")
    summary = (check.__doc__ or "").strip().partition("\n")[0]
    rules[id_] = Rule(id_, name, severity, summary, source, check)
