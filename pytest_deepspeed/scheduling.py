"""The order in which xdist's workers get tests: those on ranks that took long come first.

A long test that comes last keeps one worker busy while the others have nothing left to do. How
long each took is kept in pytest's cache; the controller of xdist reads it once for all its workers,
which must order their tests alike.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import pytest

from pytest_deepspeed import markers

T = TypeVar("T")

_CACHE = "pytest_deepspeed/durations"

#: In the ``workerinput`` of pytest-xdist: seconds by id.
_DURATIONS = "pytest_deepspeed_durations"

#: Tests below this many seconds keep their order: it is not worth a line of the cache.
_LONG = 1.0


class Durations:
    """Notes how long tests take, in the process that hands them to workers.

    Args:
        config: the session's config.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._cache: pytest.Cache | None = getattr(config, "cache", None)  # -p no:cacheprovider
        known = self._cache.get(_CACHE, {}) if self._cache else {}
        self._known: dict[str, float] = known if isinstance(known, dict) else {}
        self._seen: dict[str, float] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells a worker."""
        node.workerinput[_DURATIONS] = self._known

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds up a test's phases."""
        self._seen[report.nodeid] = self._seen.get(report.nodeid, 0.0) + report.duration

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        """Keeps what was seen now, and what was known of other tests."""
        if self._cache is not None:
            everything = {**self._known, **self._seen}
            long = {test: round(s, 1) for test, s in everything.items() if s >= _LONG}
            self._cache.set(_CACHE, dict(sorted(long.items())))


def configure(config: pytest.Config) -> None:
    """Notes durations where this process has workers."""
    if config.getoption("dist", "no") in ("load", "worksteal"):
        config.pluginmanager.register(Durations(config), "pytest_deepspeed_durations")


def long_first(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Moves tests on ranks that took long to the front, longest first; all others stay in order.

    Not where pytest-randomly shuffles.
    """
    own = getattr(config, "workerinput", {})
    known: dict[str, float] = own.get(_DURATIONS) or {}
    if not known or getattr(config.option, "randomly_reorganize", False):
        return
    long = [item for item in items if item.nodeid in known and markers.is_ranked(item)]
    long.sort(key=lambda item: -known[item.nodeid])
    moved = set(long)
    rest = [item for item in items if item not in moved]
    items[:] = dealt(long, rest, int(own["workercount"]))


def dealt(long: list[T], rest: list[T], workers: int) -> list[T]:
    """The long ones first, as cards to the workers: each begins with its share of them.

    xdist begins with a chunk of consecutive tests for each worker, a fourth of its share and two at
    least (xdist/scheduler/load.py, `schedule`; 3.8), then hands out smaller ones.
    """
    chunk = max((len(long) + len(rest)) // workers // 4, 2)
    others = iter(rest)
    order: list[T] = []
    for worker in range(workers):
        own = long[worker : chunk * workers : workers]
        order += [*own, *itertools.islice(others, chunk - len(own))]
    return [*order, *long[chunk * workers :], *others]
