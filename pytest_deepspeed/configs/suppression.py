"""Problems that the author of a config file takes on, and says why.

In a file with comments, ``// ds-ignore: DS601 (why)`` in the line of the key that a problem is at,
or on its own above it. Strict JSON has no comments; there ``pyproject.toml`` says it.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

from pytest_deepspeed.configs.comments import comments
from pytest_deepspeed.configs.document import Document, KeyPath
from pytest_deepspeed.configs.layout import start_of
from pytest_deepspeed.configs.problem import Problem

_MARK = "ds-ignore"
_WRITTEN = re.compile(r"ds-ignore\b[ \t]*:?([^(]*)(?:\((.*)\))?", re.DOTALL)
_SEPARATOR = re.compile(r"[\s,]+")

#: The rules about suppressions, which none suppresses.
OWN = frozenset({"DS091", "DS092", "DS093"})


@dataclasses.dataclass(frozen=True)
class Suppression:
    """What a comment says of the problems of a line.

    Attributes:
        rules: what it names, ids of rules if all is well.
        reason: why; empty where none is given.
        lines: of the problems: the comment's own, and, where nothing else is in these, the line of
            what comes next.
        at: the first key of that line, ``()`` where there is none.
    """

    rules: tuple[str, ...]
    reason: str
    lines: frozenset[int]
    at: KeyPath


def apply(
    document: Document, problems: Iterable[Problem]
) -> tuple[list[Problem], list[tuple[Problem, str]]]:
    """Parts the problems of a file.

    Returns:
        those that stay, and those that the file suppresses, each with the reason. A suppression
        without a reason suppresses nothing.
    """
    return part(suppressions(document), problems)


def part(
    all_written: Sequence[Suppression], problems: Iterable[Problem]
) -> tuple[list[Problem], list[tuple[Problem, str]]]:
    """The same, by suppressions that have been read."""
    reasons = {
        (rule, line): written.reason
        for written in reversed(all_written)
        for rule in written.rules
        for line in written.lines
        if written.reason and rule not in OWN
    }
    kept: list[Problem] = []
    suppressed: list[tuple[Problem, str]] = []
    for problem in problems:
        reason = reasons.get((problem.rule, problem.line))
        if reason is None:
            kept.append(problem)
        else:
            suppressed.append((problem, reason))
    return kept, suppressed


def suppressions(document: Document) -> tuple[Suppression, ...]:
    """All that a file has, in its order."""
    return tuple(_read(document)) if _MARK in document.text else ()


def _read(document: Document) -> Iterator[Suppression]:
    parts = sorted((start_of(spans), path) for path, spans in document.spans.items())
    starts = [start for start, _ in parts]
    lines = {document.position(start)[0] for start in starts}
    named: dict[int, KeyPath] = {}
    for start, path in parts:
        if path and isinstance(path[-1], str):
            named.setdefault(document.position(start)[0], path)
    for comment in comments(document):
        written = _WRITTEN.match(comment.says)
        if written is None:
            continue
        first, last = (document.position(offset)[0] for offset in (comment.start, comment.end))
        own = range(first, last + 1)
        following = bisect.bisect(starts, comment.end - 1)
        target = last
        if following < len(starts) and not lines.intersection(own):
            target = document.position(starts[following])[0]
        yield Suppression(
            rules=tuple(rule for rule in _SEPARATOR.split(written[1]) if rule),
            reason=(written[2] or "").strip(),
            lines=frozenset((*own, target)),
            at=named.get(target, ()),
        )
