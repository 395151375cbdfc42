"""PL0xx: files that are no scripts, and comments in scripts that suppress nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_deepspeed.configs.lightning.script import Script
from pytest_deepspeed.configs.lightning.suppression import OWN, suppressions
from pytest_deepspeed.configs.problem import Found
from pytest_deepspeed.configs.rule import RULES, SCRIPT_RULES, script_rule


@script_rule("PL001", "no-python", "error", source="Python's ast.parse")
def no_python(_: Script) -> Iterator[Found]:
    """The script is no Python, as where its indentation was lost."""
    yield from ()  # found where the file is read


@script_rule("PL002", "unreadable-script", "error", source="Python's open")
def unreadable_script(_: Script) -> Iterator[Found]:
    """The script cannot be opened, is too large, or is no text."""
    yield from ()  # likewise


@script_rule(OWN, "suppression-of-nothing", "error", source="Python's tokenize")
def suppression_of_nothing(script: Script) -> Iterator[Found]:
    """A comment that suppresses a rule gives the rule's id, and says why."""
    all_rules = RULES | SCRIPT_RULES
    ids = {rule.name: rule.id for rule in all_rules.values()}
    for written in suppressions(script):
        named = ", ".join(written.rules) or "PL101"
        if not written.reason or not written.rules:
            yield Found(
                written.at,
                f"a ds-ignore {'without a reason' if written.rules else 'that names no rule'}"
                " suppresses nothing",
                f"write the rule's id, and why in brackets: # ds-ignore: {named} (why)",
            )
        for name in written.rules:
            if name not in all_rules:
                instead = ids.get(name, "the id of a rule, like PL101")
                does = f'there is no rule "{name}" to suppress'
                yield Found(written.at, does, f"write {instead}")
