"""What the live line says."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

from pytest_deepspeed.processes.progress import COMPILING, Progress

#: Between the parts.
_DOT = " · "

#: For the end of a name that is too long, and the columns below which a name says nothing.
_LEFT_OUT, _SHORTEST = "...", 20


def wording(found: Sequence[Progress], now: float) -> str:
    """One line on all that is under way; empty where nothing is.

    The training that began first stands for the others, so that the line does not jump between
    the workers of pytest-xdist.

    Args:
        found: the longest under way first.
        now: seconds since the epoch.
    """
    trainings = [one for one in found if one.doing not in ("", COMPILING)]
    builds = [one for one in found if one.doing == COMPILING]
    parts = []
    if trainings:
        more = f" (and {len(trainings) - 1} more)" if trainings[1:] else ""
        parts.append(_training(trainings[0], now) + more)
    if builds:
        names = ", ".join(dict.fromkeys(one.what for one in builds))
        parts.append(f"{COMPILING} {names}, {_seconds(builds[0], now)} so far")
    return "; ".join(parts)


def _training(one: Progress, now: float) -> str:
    parts = [" ".join(filter(None, (one.doing, one.what, one.mode)))]
    if one.step:
        parts += [f"step {one.step}/{one.steps}", f"loss {one.loss:.4g}"]
    return _DOT.join([*parts, _seconds(one, now)])


def _seconds(one: Progress, now: float) -> str:
    # Another node's clock may be ahead.
    return f"{max(0, int(now - one.began))} s"


def clipped(text: str, columns: int) -> str:
    """As much of a text as fits, the name first to go: what changes stands behind it.

    What would move the cursor is a question mark in it.
    """
    text = "".join(character if character.isprintable() else "?" for character in text)
    name, dot, rest = text.partition(_DOT)
    room = columns - sum(map(_width, dot + rest)) - len(_LEFT_OUT)
    if sum(map(_width, text)) <= columns or room < _SHORTEST:
        return _cut(text, columns)
    return _cut(name, room) + _LEFT_OUT + dot + rest


def _cut(text: str, columns: int) -> str:
    ends = itertools.accumulate(map(_width, text))
    return "".join(c for c, end in zip(text, ends, strict=True) if end <= columns)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
