"""The DeepSpeed config that a script gives as a dict, or as the path of a file."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from pytest_deepspeed.configs import reading
from pytest_deepspeed.configs.document import KeyPath, Spans
from pytest_deepspeed.configs.lightning.names import UNREAD
from pytest_deepspeed.configs.lightning.script import Script
from pytest_deepspeed.configs.unreadable import Unreadable


def config(
    script: Script, node: ast.expr, spans: Spans
) -> tuple[dict[str, Any], dict[KeyPath, Spans], bool]:
    """A config that is given, its places, and whether some of it cannot be read.

    Args:
        script: in which it is given.
        node: the value of ``config``.
        spans: where that stands, for what a file holds.
    """
    followed = script.names.followed(node)
    if isinstance(followed, ast.Dict):
        places: dict[KeyPath, Spans] = {}
        data, whole = _of_dict(script, followed, (), places)
        return data, places, not whole
    value = script.names.value(node)
    for folder in (script.path.parent, Path.cwd()) if isinstance(value, str) else ():
        try:
            document = reading.read(folder / value)
        except Unreadable:
            continue
        return dict(document.data), dict.fromkeys(document.spans, spans), False
    return {}, {}, True


def _of_dict(
    script: Script, node: ast.Dict, at: KeyPath, places: dict[KeyPath, Spans]
) -> tuple[dict[str, Any], bool]:
    found: dict[str, Any] = {}
    whole = True
    for key, value in zip(node.keys, node.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            whole = False
            continue
        path = (*at, key.value)
        followed = script.names.followed(value)
        if isinstance(followed, ast.Dict):
            found[key.value], all_ = _of_dict(script, followed, path, places)
            whole = whole and all_
        else:
            found[key.value] = script.names.value(value)
            if found[key.value] is UNREAD:
                del found[key.value]
                whole = False
        ends = (script.offset(key, end=True), script.offset(value), script.offset(value, end=True))
        places[path] = Spans(script.offset(key), *ends)
    return found, whole
