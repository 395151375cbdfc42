"""A suite that has nothing to do with ranks."""

from __future__ import annotations


def test_nothing() -> None:
    """There is nothing to time but pytest."""
