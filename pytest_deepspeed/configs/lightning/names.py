"""What the names in a script stand for, as far as its text alone tells."""

from __future__ import annotations

import ast
import collections
import functools
from typing import Any, Final

#: Stands for a value that only the running script knows.
UNREAD: Final[Any] = type("_Unread", (), {"__repr__": lambda _: "UNREAD"})()


class Names:
    """Imports and assignments of a script, wherever in it they stand.

    Args:
        tree: the script.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree

    def dotted(self, node: ast.AST) -> str:
        """The full name of what an expression names: ``"pytorch_lightning.Trainer"``, or ``""``."""
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return f"{base}.{node.attr}" if base else ""
        return self.imports.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def value(self, node: ast.AST) -> Any:
        """The value of a literal, or of a name that is given one and nothing else; or `UNREAD`."""
        try:
            return ast.literal_eval(self.followed(node))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return UNREAD

    def followed(self, node: ast.AST) -> ast.AST:
        """The expression that a name stands for, where there is one alone; else the node itself."""
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self.constants[node.id]
        return node

    @functools.cached_property
    def imports(self) -> dict[str, str]:
        """What is imported, by the name that it has in the script."""
        found = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or whole] = whole
            elif isinstance(node, ast.ImportFrom):
                base = f"{'.' * node.level}{node.module or ''}"
                found |= {a.asname or a.name: f"{base}.{a.name}" for a in node.names}
        return found

    @functools.cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Names that are assigned once in the whole script, and not changed in place."""
        return {
            name: value
            for name, value in self._assigned.items()
            if self._bound[name] == 1 and name not in self._changed
        }

    @functools.cached_property
    def variables(self) -> dict[str, ast.AST]:
        """All names that are assigned, with the first place; no parameters, no loops."""
        stored = (
            node
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )
        last_first = sorted(stored, key=lambda node: (node.lineno, node.col_offset), reverse=True)
        return {node.id: node for node in last_first}

    @functools.cached_property
    def _assigned(self) -> dict[str, ast.expr]:
        found = {}
        for node in ast.walk(self._tree):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    found[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found[name] = value
        return found

    @functools.cached_property
    def _bound(self) -> collections.Counter[str]:
        counted: collections.Counter[str] = collections.Counter()
        for node in ast.walk(self._tree):
            match node:
                case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                    counted[name] += 1
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    counted[name] += 1
                case ast.AugAssign(target=ast.Name(id=name)):
                    counted[name] += 1
                case ast.Global(names=names) | ast.Nonlocal(names=names):
                    counted.update(names)
        return counted

    @functools.cached_property
    def _changed(self) -> set[str]:
        found = set()
        for node in ast.walk(self._tree):
            match node:
                case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                    found.add(name)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
                    found.add(name)
        return found
