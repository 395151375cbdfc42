"""Slurm's compressed lists: of node names, and of counts per node."""

from __future__ import annotations

import itertools
import re

#: Most names in one range, as in Slurm (its MAX_RANGE); a longer one is a typing error.
MOST = 64 * 1024

_COUNT = re.compile(r"(?P<count>\d+)(\(x(?P<nodes>\d+)\))?", re.ASCII)
_RANGE = re.compile(r"(?P<first>\d+)(-(?P<last>\d+))?", re.ASCII)
#: A name's parts, with an empty text where something else stands.
_PART = re.compile(r"(?P<text>[^\[\],\s]+)|\[(?P<ranges>[^\[\]]*)\]|(?P<comma>,)|")


def expand(nodelist: str) -> list[str]:
    """Node names of a list as Slurm prints it: ``"n[08-10],gpu-[1,3]"`` has n08, n09, n10, ...

    A number is padded to the width of its range's first one; with several brackets in a name the
    last one runs fastest, as in ``scontrol show hostnames``.

    Raises:
        ValueError: it is no such list; the message shows it and the position, counted from 0.
    """
    names: list[str] = []
    parts: list[list[str]] = []  # of the name being read: what each of its parts may be
    at = 0
    while at < len(nodelist):
        part = _PART.match(nodelist, at)
        assert part is not None  # the empty alternative always matches
        if part["text"]:
            parts.append([part["text"]])
        elif part["ranges"] is not None:
            parts.append(_numbers(nodelist, part.start("ranges"), part["ranges"]))
        elif part["comma"] and parts:
            names += _product(parts)
            parts = []
        else:
            raise _unreadable(nodelist, at)
        at = part.end()
    if not parts:
        raise _unreadable(nodelist, at)
    return names + _product(parts)


def per_node(counts: str) -> list[int]:
    """One number for each node of a list like ``SLURM_JOB_CPUS_PER_NODE``: ``"16(x2),8"``.

    Raises:
        ValueError: it is no such list; the message shows it and the position, counted from 0.
    """
    numbers: list[int] = []
    at = 0
    for item in counts.split(","):
        found = _COUNT.fullmatch(item)
        if found is None:
            raise _unreadable(counts, at)
        numbers += [int(found["count"])] * int(found["nodes"] or 1)
        at += len(item) + 1
    return numbers


def _numbers(nodelist: str, at: int, ranges: str) -> list[str]:
    numbers: list[str] = []
    for item in ranges.split(","):
        found = _RANGE.fullmatch(item)
        if found is None:
            raise _unreadable(nodelist, at)
        first, last = int(found["first"]), int(found["last"] or found["first"])
        if not first <= last < first + MOST:
            raise _unreadable(nodelist, at)
        numbers += [f"{n:0{len(found['first'])}}" for n in range(first, last + 1)]
        at += len(item) + 1
    return numbers


def _product(parts: list[list[str]]) -> list[str]:
    return ["".join(name) for name in itertools.product(*parts)]


def _unreadable(text: str, at: int) -> ValueError:
    return ValueError(f"not a list as Slurm prints it, from character {at} on: {text!r}")
