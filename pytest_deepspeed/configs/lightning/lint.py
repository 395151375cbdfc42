"""What the rules find in a script: those about configs in what Lightning makes, and its own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from pytest_deepspeed.configs import known, lint
from pytest_deepspeed.configs.document import Document, KeyPath
from pytest_deepspeed.configs.lightning import (
    reading,
    rules,  # noqa: F401 (fills SCRIPT_RULES)
)
from pytest_deepspeed.configs.lightning.script import Script, Strategy
from pytest_deepspeed.configs.problem import Found, Problem
from pytest_deepspeed.configs.rule import RULES, SCRIPT_RULES
from pytest_deepspeed.configs.subject import Subject
from pytest_deepspeed.configs.unreadable import Unreadable, printable

#: A value that only the running script knows is judged as one that Hugging Face fills in.
_FILLED = "auto"
#: What is said of such, of comments in JSON, and of its syntax.
_NOT_OF_SCRIPTS = ("DS25", "DS0")
#: What Lightning sets whether it is used or not; such is not said of its defaults.
_ABOUT_UNUSED = "DS6"
#: What goes well where there is no GPU.
_ON_CUDA = ("PL305", "PL402")
_DECIDES = ("stage", "device", "enabled")


def problems(
    script: Script,
    *,
    live: Mapping[str, Any] | None = None,
    world_sizes: tuple[int, ...] = (),
    nodes: int = 1,
    device: Literal["cuda", "cpu"] = "cuda",
    only: Collection[str] | None = None,
) -> list[Problem]:
    """What the rules find, by line. None has edits: those are of JSON.

    Of what the script does not give, but Lightning sets, no error is found, nor that DeepSpeed does
    not use it: no argument takes it away. Another warning stays, at the strategy.

    Args:
        script: as of `reading.read`.
        live: ``strategy.config`` of the running script, after Lightning has formatted it; where it
            is given, the rules about configs judge it, and not what is read of the script.
        world_sizes, nodes, device: as of `Subject`.
        only: ids of rules; all unless given.
    """
    known_of_cluster: dict[str, Any] = {
        "world_sizes": world_sizes,
        "nodes": nodes,
        "device": device,
    }
    chosen = {id_: rule for id_, rule in SCRIPT_RULES.items() if only is None or id_ in only}
    if device == "cpu":
        chosen = {id_: rule for id_, rule in chosen.items() if id_ not in _ON_CUDA}
    found = [_placed(id_, one) for id_, rule in chosen.items() for one in rule.check(script)]
    if only is None or RULES.keys() & only:
        for judged in _judged(script, live):
            found += _of_config(script, judged, known_of_cluster, only)
    unique = {(one.line, one.column, one.rule, one.does): one for one in found}
    return sorted(unique.values(), key=lambda one: (one.line, one.column, one.rule))


def unreadable(error: Unreadable) -> Problem:
    """The problem of a file that is no script."""
    rule = SCRIPT_RULES[error.rule]
    return Problem(
        rule.id, rule.name, rule.severity, error.line, error.column, (), error.does, error.instead
    )


def _placed(id_: str, found: Found) -> Problem:
    rule = SCRIPT_RULES[id_]
    line, column = (int(number) for number in found.at) if found.at else (1, 1)
    does, instead = printable(found.does), printable(found.instead)
    return Problem(rule.id, rule.name, rule.severity, line, column, found.at, does, instead)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """A config of a strategy, and what is not known of it.

    Attributes:
        document: see `Strategy`.
        unread: paths that only the running script knows.
        open: whether there may be more of them.
    """

    document: Document
    unread: frozenset[KeyPath] = frozenset()
    open: bool = False


def _judged(script: Script, live: Mapping[str, Any] | None) -> Iterator[_Judged]:
    if live is not None:
        yield _Judged(reading.of_live(live, script))
        return
    for strategy in script.strategies:
        yield _Judged(_filled(strategy), strategy.unread, strategy.open)


def _filled(strategy: Strategy) -> Document:
    """The config with what is not known filled in."""
    data: dict[str, Any] = copy.deepcopy(dict(strategy.document.data))
    for path in strategy.unread:
        block = data
        for key in path[:-1]:
            block = block.setdefault(str(key), {})
        if not isinstance(block.get(str(path[-1])), Mapping):
            block[str(path[-1])] = _FILLED
    return dataclasses.replace(strategy.document, data=data)


def _of_config(
    script: Script, judged: _Judged, known_of_cluster: Mapping[str, Any], only: Any
) -> Iterator[Problem]:
    document = judged.document
    chosen = {id_ for id_ in RULES if not id_.startswith(_NOT_OF_SCRIPTS)}
    chosen = chosen if only is None else chosen & set(only)
    about_unused = {id_ for id_ in chosen if id_.startswith(_ABOUT_UNUSED)}
    subject = Subject(
        document=document,
        path=script.path,
        known=known.load(),
        huggingface=True if judged.unread else None,
        **known_of_cluster,
    )
    given = dataclasses.replace(document, data=_given(document.data, document, ()))
    found = lint.lint(subject, chosen - about_unused)
    found += lint.lint(dataclasses.replace(subject, document=given), about_unused)
    for problem in found:
        if _unsure(judged, problem.at):
            continue
        if problem.severity == "error" and problem.at not in document.spans:
            continue
        line, column = problem.line, problem.column
        if not any(problem.at[:n] in document.spans for n in range(len(problem.at), 0, -1)):
            line, column = document.position(_start_within(document, problem.at))
        yield dataclasses.replace(problem, line=line, column=column, edits=())


def _start_within(document: Document, at: KeyPath) -> int:
    """Where the first part of a block is given; else the strategy."""
    inner = (s.key_start for path, s in document.spans.items() if at and path[: len(at)] == at)
    return min(inner, default=document.spans[()].value_start)


def _given(data: Mapping[str, Any], document: Document, at: KeyPath) -> dict[str, Any]:
    """What the script gives of a config, and by what it is seen whether that is used."""
    found = {}
    for key, value in data.items():
        path = (*at, key)
        if isinstance(value, Mapping):
            found[key] = _given(value, document, path)
        elif key in _DECIDES or path in document.spans:
            found[key] = value
    return {k: v for k, v in found.items() if v != {} or (*at, k) in document.spans}


def _unsure(judged: _Judged, at: KeyPath) -> bool:
    """Whether what a rule found may be otherwise in the running script."""
    if any(at[: len(path)] == path for path in judged.unread):
        return True
    return judged.open and at not in judged.document.spans
