"""Dataclasses of plain data go to JSON and come back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@st.composite
def _broken(draw):
    """What was dumped, with something else in one place."""
    whole = dataclasses.asdict(OUTER)
    place, key = draw(
        st.sampled_from(
            [
                (whole, "inner"),
                (whole, "by_name"),
                (whole, "pair"),
                (whole["inner"], "values"),
                (whole["by_name"], "b"),
                (whole["missing"], "name"),
            ]
        )
    )
    place[key] = draw(_json)
    return json.dumps(whole)


@given(_broken() | _json.map(json.dumps) | st.text() | st.integers(1, 6).map(lambda n: "[" * 9**n))
def test_whatever_was_read_is_an_instance_or_an_error(text):
    """Protects: a report that was cut off, or is of another release, is one kind of error."""
    try:
        loaded = plain.load(Outer, text)
    except ValueError:
        return
    assert isinstance(loaded, Outer)
