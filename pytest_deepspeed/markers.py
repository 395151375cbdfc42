"""The markers: what they say, and what a test's markers ask for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_deepspeed import distributed
from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.processes import devices
from pytest_deepspeed.values.errors import WorldSizeError
from pytest_deepspeed.values.modes import mode_names
from pytest_deepspeed.values.world import World, under_torchrun

MARKERS = (
    "world_size(n, init_process_group=True): run the test on n ranks; a list: once for each size.",
    "ds_config(config=None, **changes): DeepSpeed config; changes: stage=3, dtype='bf16', any key.",
    "multinode(n=2): needs n nodes, of --ds-nodes.",
    "ds_timeout(seconds): seconds that fixtures, body and teardown may take on the ranks.",
    "lightning(target): checks Lightning code: 'train.py --lr 0.1', or 'package.module:function'.",
    "limit_rank_memory(host=None, **limits): fail a rank that takes more, such as '1.5 GiB'.",
    "zero0: trains with ZeRO stage 0; zero1, zero2, zero3 likewise. Put on tests with ds_config.",
    "zero1: trains with ZeRO stage 1.",
    "zero2: trains with ZeRO stage 2.",
    "zero3: trains with ZeRO stage 3.",
    "offload_cpu: offloads optimizer states or parameters to the CPU. Put on tests with ds_config.",
    "offload_nvme: offloads optimizer states or parameters to NVMe. Put on tests with ds_config.",
)


@dataclasses.dataclass(frozen=True)
class WorldRequest:
    """What a test's markers ask for: ``sizes`` is longer than 1 where a list was given."""

    sizes: tuple[int, ...]
    init_process_group: bool


def register(config: pytest.Config) -> None:
    """Makes the markers known, so that ``--strict-markers`` and ``--markers`` have them."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)


def world_request(mark: pytest.Mark, where: str, settings: Settings) -> WorldRequest:
    """What a ``world_size`` mark asks for.

    Raises:
        pytest.UsageError: it is wrong; says where it stands and what to write instead.
    """
    unknown = set(mark.kwargs) - {"n", "init_process_group"}
    sizes = _sizes(mark)
    if unknown or len(mark.args) > 1 or (sizes is None):
        raise pytest.UsageError(
            f"{where}: world_size takes a size or a list of sizes, and init_process_group;"
            " write world_size(2)"
        )
    wanted = sizes if isinstance(sizes, (list, tuple)) and sizes else [sizes]
    if settings.world_size:
        wanted = [settings.world_size]
    try:
        checked = tuple(devices.check_world_size(n, where, settings.capacity) for n in wanted)
    except WorldSizeError as error:
        raise pytest.UsageError(str(error)) from None
    return WorldRequest(checked, bool(mark.kwargs.get("init_process_group", True)))


def world_of(item: pytest.Item) -> World | None:
    """The world that a test runs on, or ``None`` for a test of the controller."""
    mark = item.get_closest_marker("world_size")
    if mark is None or not isinstance(item, pytest.Function):
        return None
    settings = item.config.stash[SETTINGS]
    where = where_of(item)
    test = distributed.test_class(item)
    if test is not None and (own := _own_size(item)) is not None:
        mark = pytest.mark.world_size(own).mark
    request = world_request(mark, where, settings)
    size = request.sizes[0]
    if len(request.sizes) > 1:
        size = int(item.callspec.params["world_size"])  # type: ignore[call-overload]
    timeout = timeout_of(item)
    if test is None:
        return settings.world(size, timeout, request.init_process_group)
    return settings.world(
        size,
        timeout or test.exec_timeout,
        request.init_process_group and test.init_distributed,
        distributed.backend_of(test, where, settings),
    )


def _own_size(item: pytest.Function) -> Any:
    """The size that a method of a `DistributedTest` has as a parameter, and no mark of its own."""
    if any(mark.name == "world_size" for mark in item.own_markers) or not hasattr(item, "callspec"):
        return None
    return item.callspec.params.get("world_size")


def is_ranked(item: pytest.Item) -> bool:
    """Whether a test runs on ranks."""
    return item.get_closest_marker("world_size") is not None


def starts_worlds(item: pytest.Item) -> bool:
    """Whether a test of the controller starts worlds, with `ds_run` or `ds_check`."""
    return not {"ds_run", "ds_check"}.isdisjoint(getattr(item, "fixturenames", ()))


def wants_this_process(config: pytest.Config) -> bool:
    """Whether ranked tests run in this process: under torchrun, and for a debugger."""
    return under_torchrun() or bool(config.option.usepdb or config.option.trace)


def timeout_of(item: pytest.Item) -> float | None:
    """The body budget that a test's ``ds_timeout`` marker asks for, in seconds."""
    mark = item.get_closest_marker("ds_timeout")
    if mark is None:
        return None
    seconds = mark.args[0] if len(mark.args) == 1 and not mark.kwargs else None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0:
        raise pytest.UsageError(
            f"{where_of(item)}: ds_timeout takes seconds, more than 0; write ds_timeout(120)"
        )
    return float(seconds)


def nodes_of(item: pytest.Item) -> int:
    """How many nodes a test needs, by its ``multinode`` marker; 1 where it has none."""
    mark = item.get_closest_marker("multinode")
    if mark is None:
        return 1
    unknown = set(mark.kwargs) - {"n"}
    count = mark.args[0] if mark.args else mark.kwargs.get("n", 2)
    if unknown or len(mark.args) > 1 or not isinstance(count, int) or count < 2:
        raise pytest.UsageError(
            f"{where_of(item)}: multinode takes a number of nodes, at least 2; write multinode(2)"
        )
    return count


def where_of(item: pytest.Item) -> str:
    """``tests/test_a.py:12: test_b``, for messages; of a config file's tests the id."""
    path, line, _ = item.location
    return item.nodeid if line is None else f"{path}:{line + 1}: {item.name}"


def parametrize_world_size(metafunc: pytest.Metafunc) -> None:
    """One test for each size of a list. What is wrong in it is told when all are collected."""
    mark = metafunc.definition.get_closest_marker("world_size")
    sizes = _sizes(mark) if mark is not None else None
    if not isinstance(sizes, (list, tuple)) or not sizes or _is_parameter(metafunc):
        return
    override = metafunc.config.stash[SETTINGS].world_size
    wanted = [override] if override else sizes
    if "world_size" not in metafunc.fixturenames:
        metafunc.fixturenames.append("world_size")
    metafunc.parametrize(
        "world_size", wanted, ids=[f"world_size_{n}" for n in wanted], indirect=True
    )


def _is_parameter(metafunc: pytest.Metafunc) -> bool:
    """Whether a test of a `DistributedTest` brings its own ``world_size``, which comes first."""
    given = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize") if mark.args)
    names = (names.split(",") if isinstance(names, str) else names for names in given)
    return any("world_size" in map(str.strip, each) for each in names)


def _sizes(mark: pytest.Mark) -> Any:
    return mark.args[0] if mark.args else mark.kwargs.get("n")


def add_mode_markers(item: pytest.Item) -> None:
    """Puts ``zero3``, ``offload_cpu`` and so on where the test's config says so."""
    for name in mode_names(config_of(item)):
        item.add_marker(name)


def config_of(item: pytest.Item) -> dict[str, Any]:
    """The config of a test: that of its file, or what its mark describes; empty where it has none.

    Raises:
        pytest.UsageError: the mark is wrong.
    """
    own: dict[str, Any] | None = getattr(item, "ds_config", None)
    if own is not None:
        return own
    mark = item.get_closest_marker("ds_config")
    if mark is None:
        return {}
    from pytest_deepspeed.training.config import ConfigError, from_mark

    try:
        return from_mark(mark.args, mark.kwargs, base=item.path.parent)
    except ConfigError as error:
        raise pytest.UsageError(f"{where_of(item)}: {error}") from None
