"""The exact way to read a config: hjson, as DeepSpeed does, with the place of each part.

Grammar and results are those of hjson 3.1.0, which DeepSpeed reads its files with
(deepspeed/runtime/config.py:444): names, strings, blanks and comments are read by hjson itself.
Values without quotes and multi-line strings are read here, because hjson's time for them grows with
the square of their length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hjson.decoder import NUMBER_RE, getNext, scanKeyName, scanstring
from hjson.scanner import HjsonDecodeError

from pytest_deepspeed.configs import strict, syntax
from pytest_deepspeed.configs.document import Document, KeyPath, Spans
from pytest_deepspeed.configs.strict import MAX_DEPTH
from pytest_deepspeed.configs.unreadable import Unreadable

_WORDS = {"true": True, "false": False, "null": None}
#: Where a word or a number may end, and where a string without quotes does.
_END_OF_WORD = re.compile(r"[\r\n,}\]#]|//|/\*")
_END_OF_LINE = re.compile(r"[\r\n]")
_INDENT = " \t\r"


def parse(text: str) -> Document:
    """The document of a text that DeepSpeed can read.

    Raises:
        Unreadable: It cannot.
    """
    reader = _Reader(text)
    try:
        root = reader.root()
    except HjsonDecodeError as error:
        raise syntax.error(text, error.msg, error.pos, reader.place) from None
    return strict.made(text, root, reader.spans, reader.twice, plain=False)


class _Reader:
    """Reads one text; offsets go in and come out, as in hjson's own functions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans: dict[KeyPath, Spans] = {}
        self.twice: dict[KeyPath, list[Spans]] = {}
        self.place = syntax.Place()

    def root(self) -> dict[str, Any]:
        char, start = self._next(0)
        if char == "":
            raise syntax.empty(self.text)
        self._begin((), start)
        if char in "{[":
            value, end = self._value(start, ())
        else:
            value, end = self._without_braces(start)
        self._end((), end)
        char, rest = self._next(end)
        if rest != len(self.text):
            raise HjsonDecodeError("Extra data", self.text, rest)
        if not isinstance(value, dict):
            raise syntax.not_an_object(self.text, value, start)
        return value

    def _without_braces(self, start: int) -> tuple[Any, int]:
        """An object's members, or else a single value: hjson takes both."""
        try:
            return self._object(start, (), braces=False)
        except HjsonDecodeError as error:
            self.spans = {(): self.spans[()]}
            self.twice.clear()
            try:
                value, end = self._value(start, ())
            except (HjsonDecodeError, Unreadable):
                raise error from None
            if self._next(end)[0] != "":
                raise
            return value, end

    def _value(self, at: int, path: KeyPath) -> tuple[Any, int]:
        char = self.text[at : at + 1]
        if char == "":
            raise HjsonDecodeError("Expecting value", self.text, at)
        if self.text.startswith("'''", at):
            return self._multiline(at)
        if char in "\"'":
            return self._read(scanstring, at, at + 1)
        if char not in "{[":
            return self._bare(at)
        if len(path) >= MAX_DEPTH:
            raise syntax.too_deep(self.text, at)
        self.place.opened.append(at)
        value: tuple[Any, int] = (self._object if char == "{" else self._list)(at + 1, path)
        self.place.opened.pop()
        return value

    def _read(
        self, scan: Callable[[str, int], tuple[str, int]], opened: int, at: int
    ) -> tuple[str, int]:
        r"""What a function of hjson's reads at a place.

        It takes ``\u-0e0`` for a number below 0, and then fails to make a character of that.
        """
        try:
            return scan(self.text, at)
        except HjsonDecodeError:
            raise
        except ValueError:
            raise HjsonDecodeError("Invalid \\uXXXX escape sequence", self.text, opened) from None

    def _object(self, at: int, path: KeyPath, *, braces: bool = True) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        char, at = self._next(at)
        if braces and char == "}":
            return members, at + 1
        while True:
            key_start = at
            key, at = self._read(scanKeyName, key_start, key_start)
            quoted = self.text[key_start] in "\"'"
            key_end = at if quoted else key_start + len(key)
            char, at = self._next(at)
            if char != ":":
                raise HjsonDecodeError("Expecting ':' delimiter", self.text, at)
            _, at = self._next(at + 1)
            here = (*path, key)
            if key in members:
                self.twice.setdefault(here, []).append(self.spans[here])
            self._begin(here, at, (key_start, key_end))
            members[key], at = self._value(at, here)
            self._end(here, at)
            char, at = self._next_member(at)
            if not braces and char == "":
                return members, at
            if braces and char == "}":
                return members, at + 1

    def _list(self, at: int, path: KeyPath) -> tuple[list[Any], int]:
        elements: list[Any] = []
        char, at = self._next(at)
        if char == "]":
            return elements, at + 1
        if char == "":
            raise HjsonDecodeError("End of input while parsing an array", self.text, at)
        while True:
            here = (*path, len(elements))
            self._begin(here, at)
            value, at = self._value(at, here)
            self._end(here, at)
            elements.append(value)
            char, at = self._next_member(at)
            if char == "]":
                return elements, at + 1

    def _bare(self, at: int) -> tuple[Any, int]:
        """A word, a number, or else a string without quotes, which is the rest of the line."""
        if self.text[at] in "{}[],:":
            raise HjsonDecodeError("Found a punctuator", self.text, at)
        end = _end(_END_OF_WORD, self.text, at)
        word = self.text[at:end].rstrip()
        if word in _WORDS:
            return _WORDS[word], end
        # hjson looks for a number at each such end; it has none in it, so the first one decides.
        if self.text[at] in "-0123456789":
            match = NUMBER_RE.match(self.text, at)
            if match and match.end() == end:
                return self._number(at, *match.groups()), end
        line_end = _end(_END_OF_LINE, self.text, at)
        if line_end > end and self.place.swallowed is None:
            self.place.swallowed = at
        return self.text[at:line_end].strip(), line_end

    def _number(self, at: int, integer: str, fraction: str | None, exponent: str | None) -> Any:
        try:
            if fraction or exponent:
                return strict.number(integer + (fraction or "") + (exponent or ""))
            return int(integer)
        except (ValueError, OverflowError) as error:
            raise syntax.impossible_number(self.text, at, error) from None

    def _multiline(self, at: int) -> tuple[str, int]:
        """A string in triple quotes; what its lines are indented by as much as it, is cut off."""
        text = self.text
        newline = text.rfind("\n", 0, at)
        if newline < 0:  # hjson looks on from the text's end, and finds none with an IndexError
            newline = text.rfind("\n") - len(text)
            if newline < -len(text):
                raise HjsonDecodeError("Bad multiline string", text, at)
        indent = at - 1 - newline
        start = at + 3
        while text[start : start + 1] in (" ", "\t", "\r"):
            start += 1
        begun = text.startswith("\n", start)
        end = text.find("'''", start)
        if end < 0 or start == len(text):
            raise HjsonDecodeError("Bad multiline string", text, at)
        lines = text[start:end].split("\n")
        cut = [line[:indent].lstrip(_INDENT) + line[indent:] for line in lines[1:]]
        string = "\n".join(cut if begun else [lines[0], *cut]).replace("\r", "")
        return string.removesuffix("\n"), end + 3

    def _next_member(self, at: int) -> tuple[str, int]:
        """Behind a value: past its comma, if there is one."""
        char, at = self._next(at)
        return self._next(at + 1) if char == "," else (char, at)

    def _next(self, at: int) -> tuple[str, int]:
        """The next character that is neither blank nor in a comment; empty at the end."""
        try:
            found: tuple[str, int] = getNext(self.text, at)
        except IndexError:
            raise HjsonDecodeError("Unterminated comment", self.text, at) from None
        return found

    def _begin(self, path: KeyPath, at: int, key: tuple[int, int] | None = None) -> None:
        self.spans[path] = Spans(*(key or (at, at)), at, at)

    def _end(self, path: KeyPath, at: int) -> None:
        spans = self.spans[path]
        end = spans.value_start + len(self.text[spans.value_start : at].rstrip())
        self.spans[path] = spans._replace(value_end=end)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.search(text, at)
    return match.start() if match else len(text)
