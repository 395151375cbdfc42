"""``limit_rank_memory``: read from markers and the ini file, and held to on ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import Any

import pytest

from pytest_deepspeed.markers import config_of, is_ranked, where_of
from pytest_deepspeed.training.memory import peak
from pytest_deepspeed.training.memory.check import largest_lines, over_limit
from pytest_deepspeed.training.memory.limits import LimitError, Limits, Mark, limits_of, of_mark
from pytest_deepspeed.values import modes, role
from pytest_deepspeed.values.size import format_size

MARKER = "limit_rank_memory"
INI = "ds_limit_rank_memory"

#: What is measured of any body that runs on ranks; the rest needs the engine of a training.
_OF_ANY_BODY = ("host", "device")

#: Fixtures whose trainings are measured in full.
_MEASURED = ("ds_check",)


def add_ini(parser: pytest.Parser) -> None:
    """The ini key; it has no option, as it says what is true of the configs of a project."""
    parser.addini(
        INI,
        type="linelist",
        default=[],
        help="memory that a rank may take, lines '[PATTERN:] SIZE[, NAME=SIZE ...]'; PATTERN is of"
        " case ids or paths of configs: zero3-*: 1.5 GiB",
    )


def register(config: pytest.Config) -> None:
    """Registers what holds tests to their limits.

    Raises:
        pytest.UsageError: a line of the ini file is wrong, whether or not a test has its case.
    """
    try:
        limits_of([], config.getini(INI))
    except LimitError as error:
        file = config.inipath.name if config.inipath else "the ini file"
        raise pytest.UsageError(f"{file}: {error}") from None
    config.pluginmanager.register(RankLimits(), "pytest_deepspeed_limits")


def limits_of_item(item: pytest.Item, case_id: str | None = None, config_path: str = "") -> Limits:
    """The limits of a test; of its ``ds_config`` where no ``case_id`` is given.

    Raises:
        pytest.UsageError: one is written wrong; says where and what to write.
    """
    marks = list(item.iter_markers(MARKER))
    lines = item.config.getini(INI)
    if not marks and not lines:
        return Limits({}, {})
    try:
        for mark in marks:
            of_mark(Mark(mark.args, mark.kwargs))
    except LimitError as error:
        raise pytest.UsageError(f"{where_of(item)}: {error}") from None
    if case_id is None:
        ds_config = config_of(item)
        case_id = modes.case_id(ds_config) if ds_config else ""
        lines = lines if ds_config else []
    return limits_of([Mark(m.args, m.kwargs) for m in marks], lines, case_id, config_path)


class RankLimits:
    """The plugin: refuses wrong limits at collection, and holds ranked tests to theirs."""

    def __init__(self) -> None:
        self._host: peak.HostPeak | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """One clear error for a limit that is wrong, or that nothing would hold a test to."""
        for item in items:
            limits = limits_of_item(item)
            if limits:
                _check_measured(item, limits)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Begins to measure, before the fixtures."""
        self._host = None
        if role.current() == "rank" and limits_of_item(item):
            self._host = peak.HostPeak()
            if (cuda := _cuda()) is not None:
                cuda.reset_peak_memory_stats()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Fails the rank where its body passed and took more than it may."""
        result = yield
        if self._host is not None:
            limits = limits_of_item(item)
            taken = {"host": self._host.read()}
            if (cuda := _cuda()) is not None:
                taken["device"] = cuda.max_memory_allocated()
            for name, size in taken.items():
                if size > limits.sizes.get(name, size):
                    pytest.fail(_message(name, size, limits), pytrace=False)
        return result


def _check_measured(item: pytest.Item, limits: Limits) -> None:
    own = [m.name for m in item.own_markers]
    if any(name in getattr(item, "fixturenames", ()) for name in _MEASURED):
        return
    if not is_ranked(item):
        if MARKER in own:
            raise pytest.UsageError(
                f"{where_of(item)}: {MARKER} holds for tests on ranks, and this one runs on none:"
                " add @pytest.mark.world_size(2)"
            )
        return
    other = [n for n in limits.sizes if n not in _OF_ANY_BODY and limits.sources[n] == MARKER]
    if other:
        raise pytest.UsageError(
            f"{where_of(item)}: {MARKER} limits {', '.join(other)}, which is measured in tests"
            f" with the fixture {' or '.join(_MEASURED)} alone; limit host or device here"
        )


def _message(name: str, size: int, limits: Limits) -> str:
    """What was taken and by what: the largest tensors that are still there."""
    from pytest_deepspeed.training.memory import walk

    account = walk.Account()
    for tensor in walk.live_tensors():
        account.add(walk.Found("other", str(tuple(tensor.shape)), tensor))
    held = format_size(account.held()["other"].bytes)
    rank = int(os.environ["RANK"])
    lines = [
        over_limit(rank, name, size, limits.sizes[name], limits.sources[name]),
        f"still held in tensors at the end of the body: {held}",
        *largest_lines(account.largest()),
    ]
    return "\n".join(lines)


def _cuda() -> Any:
    """`torch.cuda`, where this rank computes on it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda
