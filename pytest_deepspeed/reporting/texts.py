"""Texts of tests, files and processes, made harmless before a report takes them in."""

from __future__ import annotations

import re

#: Colours and cursor movements (ECMA-48 CSI), titles of a terminal's window (OSC).
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")

#: Controls, what turns the direction of writing, what is seen as nothing, and lone surrogates.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff]"
)


def visible(text: object) -> str:
    """A text without a terminal's colours, and with each other control as its code: ``<U+0007>``.

    Line breaks and tabs stay.
    """
    plain = _ESCAPES.sub("", str(text)).replace("\r\n", "\n")
    return _UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", plain)


def one_line(text: object, most: int = 300) -> str:
    """The same in one line of at most so many characters."""
    words = " ".join(visible(text).split())
    return words if len(words) <= most else words[: most - 1] + "…"


def first_lines(text: str, lines: int = 4, most: int = 400) -> tuple[str, ...]:
    """Its first lines that say something, each in one line."""
    shown = (one_line(line, most) for line in visible(text).splitlines())
    return tuple(line for line in shown if line)[:lines]
