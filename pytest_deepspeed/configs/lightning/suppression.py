"""Problems that the author of a script takes on: ``# ds-ignore: PL101 (why)``.

In the line that the problem is at, or on its own above it.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator

from pytest_deepspeed.configs import suppression
from pytest_deepspeed.configs.lightning.script import Script
from pytest_deepspeed.configs.problem import Problem
from pytest_deepspeed.configs.suppression import Suppression

_WRITTEN = re.compile(r"#\s*ds-ignore\b[ \t]*:?([^(]*)(?:\((.*)\))?")
_SEPARATOR = re.compile(r"[\s,]+")
_BLANK = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}

#: The rule about suppressions, which none suppresses.
OWN = "PL003"


def apply(
    script: Script, problems: Iterable[Problem]
) -> tuple[list[Problem], list[tuple[Problem, str]]]:
    """Parts the problems of a script, as `pytest_deepspeed.configs.suppression.apply` does."""
    written = [one for one in suppressions(script) if OWN not in one.rules]
    return suppression.part(written, problems)


def suppressions(script: Script) -> tuple[Suppression, ...]:
    """All that a script has, in its order."""
    return tuple(_read(script.text)) if "ds-ignore" in script.text else ()


def _read(text: str) -> Iterator[Suppression]:
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    code = {
        line
        for token in tokens
        if token.type not in _BLANK and token.string
        for line in range(token.start[0], token.end[0] + 1)
    }
    for token in tokens:
        written = _WRITTEN.match(token.string) if token.type == tokenize.COMMENT else None
        if written is None:
            continue
        own, column = token.start
        target = own if own in code else min((n for n in code if n > own), default=own)
        yield Suppression(
            rules=tuple(rule for rule in _SEPARATOR.split(written[1]) if rule),
            reason=(written[2] or "").strip(),
            lines=frozenset((own, target)),
            at=(own, column + 1),
        )
