"""Frozen dataclasses of plain data as JSON, and back."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def dump(value: Any) -> str:
    """A dataclass as JSON text. Non-finite numbers are written as Python does (``NaN``).

    Args:
        value: an instance whose fields are numbers, texts, ``None``, other such dataclasses, and
            tuples and string-keyed dicts of these.
    """
    return json.dumps(dataclasses.asdict(value))


def load(cls: type[T], text: str) -> T:
    """The instance of ``cls`` that `dump` was given.

    Raises:
        ValueError: the text is not of that class.
    """
    try:
        return typing.cast("T", _restore(cls, json.loads(text)))
    except (TypeError, AttributeError, RecursionError) as error:  # a number in place of a list
        raise ValueError(f"not a {cls.__name__}: {text[:200]}") from error


def _restore(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != {f.name for f in dataclasses.fields(kind)}:
            raise ValueError(f"not a {getattr(kind, '__name__', kind)}: {str(value)[:200]}")
        made: Any = kind
        return made(**{name: _restore(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _restore(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        return _restore_tuple(arguments, value)
    if origin in (dict, typing.get_origin(typing.Mapping[str, Any])):
        return {name: _restore(arguments[1], item) for name, item in value.items()}
    return value


def _restore_tuple(arguments: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    if arguments[-1] is Ellipsis:
        return tuple(_restore(arguments[0], value) for value in values)
    return tuple(_restore(kind, value) for kind, value in zip(arguments, values, strict=True))
