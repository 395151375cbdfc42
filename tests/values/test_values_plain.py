"""Dataclasses of plain data go to JSON and come back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import pytest

from pytest_deepspeed.values import plain


@dataclasses.dataclass(frozen=True)
class Inner:
    name: str
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    by_name: dict[str, tuple[Inner, ...]]
    pair: tuple[int, str]
    config: Mapping[str, object]
    missing: Inner | None = None


INNER = Inner("a", (1.0, 1e-300, math.inf))
OUTER = Outer(INNER, {"b": (INNER, INNER)}, (1, "x"), {"zero": {"stage": 3}, "list": [1]}, INNER)


@pytest.mark.parametrize("value", [OUTER, dataclasses.replace(OUTER, missing=None)])
def test_what_is_dumped_comes_back(value):
    """Protects: nested dataclasses, tuples, dicts, None and infinity survive to the last bit."""
    assert plain.load(Outer, plain.dump(value)) == value


def test_another_class_is_refused():
    """Protects: evidence of another release is an error, not a crash far away."""
    with pytest.raises(ValueError, match=r"^not a Outer: {'name': 'a', 'values': \[1.0\]}$"):
        plain.load(Outer, plain.dump(Inner("a", (1.0,))))
