"""A script that trains with Lightning, as its text has it."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_deepspeed.configs.document import Document, KeyPath, Spans
from pytest_deepspeed.configs.lightning.names import UNREAD, Names
from pytest_deepspeed.configs.lightning.source import Lightning


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One ``DeepSpeedStrategy(...)`` of a script, or one ``strategy="deepspeed_stage_3"``.

    Attributes:
        node: the call, or the text.
        name: of the class, or the text.
        given: the arguments that the script gives, with their values' nodes; those that a
            registered name stands for with the node of the name.
        arguments: all, with Lightning's defaults; `UNREAD` for what is no literal.
        document: the config that Lightning makes of them, its places those in the script; a default
            has none.
        places: where the script gives what part of the config, whether its value is read or not.
        unread: paths of the config whose values only the running script knows.
        open: whether there may be more arguments than are seen, of ``**more``, or a config that
            cannot be read.
        trainer: the call of ``Trainer`` that it goes to, where it is plain which.
    """

    node: ast.expr
    name: str
    given: Mapping[str, ast.expr]
    arguments: Mapping[str, Any]
    document: Document
    places: Mapping[KeyPath, Spans]
    unread: frozenset[KeyPath] = frozenset()
    open: bool = False
    trainer: ast.Call | None = None

    @property
    def stage(self) -> Any:
        """The ZeRO stage; `None` where ZeRO is off, or it cannot be read."""
        zero = self.document.data.get("zero_optimization")
        return zero.get("stage") if isinstance(zero, Mapping) else None

    def offloads(self, what: str) -> str | None:
        """Where the ``"optimizer"`` or the ``"param"`` goes; `None` where it stays."""
        zero = self.document.data.get("zero_optimization")
        block = zero.get(f"offload_{what}") if isinstance(zero, Mapping) else None
        return block.get("device", "cpu") if isinstance(block, Mapping) else None


@dataclasses.dataclass(frozen=True)
class Script:
    """A script.

    Attributes:
        path: the file.
        text: what is in it.
        tree: the text, parsed.
        names: what its names stand for.
        lightning: what the installed Lightning takes.
        strategies: that it makes, in its order.
    """

    path: Path
    text: str
    tree: ast.Module
    names: Names
    lightning: Lightning
    strategies: tuple[Strategy, ...] = ()

    @functools.cached_property
    def trainers(self) -> tuple[ast.Call, ...]:
        """The calls of Lightning's ``Trainer``."""
        return tuple(call for call in self.calls if is_trainer(self.names.dotted(call.func)))

    @functools.cached_property
    def calls(self) -> tuple[ast.Call, ...]:
        """All calls."""
        return tuple(node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    @functools.cached_property
    def classes(self) -> Mapping[str, ast.ClassDef]:
        """All classes, by name."""
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}

    def derives(self, class_: ast.ClassDef, last: str) -> bool:
        """Whether a class derives, through classes of the script, from one whose name is this."""
        for base in class_.bases:
            name = self.names.dotted(base)
            if name.rpartition(".")[2] == last:
                return True
            own = self.classes.get(name)
            if own is not None and own is not class_ and self.derives(own, last):
                return True
        return False

    @functools.cached_property
    def modules(self) -> tuple[ast.ClassDef, ...]:
        """The classes that derive from ``LightningModule``."""
        return tuple(c for c in self.classes.values() if self.derives(c, "LightningModule"))

    def keyword(self, call: ast.Call, name: str) -> ast.keyword | None:
        """The keyword argument of a call; `None` where it is not given."""
        return next((keyword for keyword in call.keywords if keyword.arg == name), None)

    def argument(self, call: ast.Call, name: str, default: Any = None) -> Any:
        """The value of a keyword argument, `UNREAD` if it is no literal."""
        keyword = self.keyword(call, name)
        return default if keyword is None else self.names.value(keyword.value)

    def at(self, node: ast.AST) -> KeyPath:
        """The place of a node, for a finding: line and column, both from 1."""
        return self.position(self.offset(node))

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1."""
        return self.document.position(offset)

    @functools.cached_property
    def document(self) -> Document:
        """The text alone."""
        return Document(self.text, {}, {})

    def offset(self, node: ast.AST, *, end: bool = False) -> int:
        """Where in the text a node starts, or ends."""
        line: int = getattr(node, "end_lineno" if end else "lineno")
        column: int = getattr(node, "end_col_offset" if end else "col_offset")
        start, text = self._lines[line - 1]
        # ast counts the bytes of UTF-8.
        return start + len(text.encode()[:column].decode(errors="ignore"))

    @functools.cached_property
    def _lines(self) -> list[tuple[int, str]]:
        found, start = [], 0
        for line in self.text.split("\n"):
            found.append((start, line))
            start += len(line) + 1
        return found


def is_trainer(name: str) -> bool:
    """Whether a full name is that of Lightning's ``Trainer``."""
    return name.endswith(".Trainer") and name.startswith(("pytorch_lightning.", "lightning."))


def is_strategy(name: str) -> bool:
    """Whether a full name is that of a DeepSpeed strategy for Lightning's ``Trainer``."""
    last = name.rpartition(".")[2]
    fabric = name.startswith(("lightning_fabric.", "lightning.fabric."))
    return last.startswith("DeepSpeed") and last.endswith("Strategy") and not fabric


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, without what is in functions and classes within it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            yield from own_nodes(child)


def method(class_: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """A method of a class, by name."""
    found = (n for n in class_.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return next(found, None)


__all__ = ["UNREAD", "Script", "Strategy", "is_strategy", "is_trainer", "method", "own_nodes"]
