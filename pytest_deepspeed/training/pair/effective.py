"""What DeepSpeed made of the head's config, beside what it made of the base's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: Of the machine, not of the config: the checks swap to directories of their own.
_LEFT = ("nvme_path",)

_NONE = object()


def differences(base: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """A line for each value in effect that differs, by its dotted path.

    Args:
        base: as of `training.effective.effective`.
        head: likewise.
    """
    was, now = dict(_flat(base)), dict(_flat(head))
    lines = []
    for path in dict.fromkeys((*was, *now)):
        before, after = was.get(path, _NONE), now.get(path, _NONE)
        if before != after and path.rpartition(".")[2] not in _LEFT:
            lines.append(f"{path}: {_shown(before)} -> {_shown(after)}")
    return lines


def _flat(made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if not made:
        return
    yield from _leaves(made["config"], "")
    yield "the optimizer in use", (made["optimizer"] or {}).get("class")
    yield "the dtype in use", made["dtype"]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _shown(value: Any) -> str:
    return "nothing" if value is _NONE else json.dumps(value)
