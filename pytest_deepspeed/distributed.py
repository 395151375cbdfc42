"""`DistributedTest` and `DistributedFixture`: classes with the names and attributes of DeepSpeed's.

What DeepSpeed's own test suite derives its tests from (``tests/unit/common.py`` there), on ranks of
this plugin: a suite moves by importing them from here.
"""

from __future__ import annotations

import inspect
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeGuard, TypeVar

import pytest

from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.processes import devices
from pytest_deepspeed.processes.items import FIXTURE
from pytest_deepspeed.values.errors import WorldSizeError
from pytest_deepspeed.values.world import World

#: What torchrun and DeepSpeed's launcher tell a rank, which `set_dist_env = False` takes away.
_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
    # With it torch takes every address for that of a store that is there already.
    "TORCHELASTIC_USE_AGENT_STORE",
)

_T = TypeVar("_T")

#: Attribute of a fixture function: the :class:`DistributedFixture` that it stands for.
_BEFORE = "pytest_deepspeed_before"


class _Ranks:
    """What tests and fixtures have in common.

    Attributes:
        world_size: number of ranks; of a test also a list, which makes one test for each size.
        backend: ``"gloo"`` or ``"nccl"``; ``None`` for the device's own.
        init_distributed: whether `deepspeed.comm` and ``torch.distributed`` are initialised.
        set_dist_env: whether ``RANK``, ``MASTER_ADDR`` and the like are set.
        requires_cuda_env: accepted for DeepSpeed's sake: ranks always have an accelerator, be it
            the CPU.
        reuse_dist_env: accepted likewise: a test's ranks are fresh always, since a fork takes less
            time than to clean up.
        non_daemonic_procs: accepted likewise: ranks may always start processes.
        exec_timeout: seconds that fixtures, body and teardown may take; ``--ds-timeout`` if
            ``None``.
    """

    world_size: Any = 2
    backend: ClassVar[str | None] = None
    init_distributed = True
    set_dist_env = True
    requires_cuda_env = True
    reuse_dist_env = False
    non_daemonic_procs = False
    exec_timeout: ClassVar[float | None] = None

    #: DeepSpeed's conftest.py closes what it finds here after the last test of a class.
    _pool_cache: ClassVar[dict[int, Any]] = {}


class DistributedTest(_Ranks):
    """Base of a class whose tests run on ranks, each test on fresh ones.

    Its attributes are those of :class:`_Ranks`; ``@pytest.mark.world_size(n)`` and
    ``@pytest.mark.ds_timeout(seconds)`` on a method, or a parameter ``world_size`` of it, come
    first. Fixtures, parameters, marks and skips are pytest's own.

    Source: ``DistributedTest`` of DeepSpeed's tests/unit/common.py.
    """


class DistributedFixture(_Ranks):
    """Base of a class that is a fixture: what it runs, runs on ranks of its own before the test.

    The class's name is the fixture's. `run` may take other fixtures and may skip the test; it
    returns nothing: what the test needs of it is left in files, in ``tmpdir`` or ``class_tmpdir``.
    With ``world_size = None`` it is a base of fixtures of several sizes, and none itself.

    Source: ``DistributedFixture`` of DeepSpeed's tests/unit/common.py.
    """

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Runs on each rank."""
        raise NotImplementedError(f"{type(self).__name__} has no method run")


# Collection


def adopt(collector: pytest.Collector, name: str, found: object) -> None:
    """Makes a fixture of a class that is a :class:`DistributedFixture`, for all below `collector`.

    One whose ``world_size`` is ``None`` is a base of others and no fixture.

    Raises:
        pytest.UsageError: it has several world sizes.
    """
    if not _derives(found, DistributedFixture) or found.world_size is None:
        return
    if not isinstance(found.world_size, int):
        raise pytest.UsageError(
            f"{collector.nodeid}::{name}: a DistributedFixture has one world_size, not"
            f" {found.world_size!r}; derive a class for each"
        )
    register = getattr(pytest, "register_fixture", None)  # since pytest 9.1
    if register is not None:
        register(name=name, func=_before(name, found), node=collector)
    else:
        manager = collector.session._fixturemanager
        manager._register_fixture(
            name=name, func=_before(name, found), nodeid=collector.nodeid, scope="function"
        )


def _before(name: str, fixture: type[DistributedFixture]) -> Any:
    """What pytest knows as the fixture: it has run by then, on ranks of its own."""

    def before(request: pytest.FixtureRequest, **given: Any) -> None:
        if not request.config.pluginmanager.hasplugin("pytest_deepspeed_inprocess"):
            return
        if int(os.environ["WORLD_SIZE"]) != fixture.world_size:
            pytest.fail(
                f"{name} runs on {fixture.world_size} ranks of its own before the test, and this"
                " session runs tests in this process (--pdb, --trace, or torchrun), which is one"
                f" rank of {os.environ['WORLD_SIZE']}: run it without",
                pytrace=False,
            )
        fixture().run(**given, **({"request": request} if "request" in wanted else {}))

    wanted = _wanted(fixture)
    names = ["request", *(n for n in wanted if n != "request")]
    keywords = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    before.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    setattr(before, _BEFORE, fixture)
    return before


def _wanted(fixture: type[DistributedFixture]) -> list[str]:
    """The fixtures that `run` takes: its parameters without a default."""
    _, *parameters = inspect.signature(fixture.run).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in named and p.default is p.empty]


def marked_class(collected: Any, found: object) -> Any:
    """Puts the ``world_size`` of a :class:`DistributedTest` on the class that pytest collects."""
    if _derives(found, DistributedTest):
        # pytest-asyncio makes a list of it.
        for node in collected if isinstance(collected, list) else [collected]:
            if isinstance(node, pytest.Class):
                node.add_marker(pytest.mark.world_size(found.world_size))
    return collected


def test_class(item: pytest.Item) -> type[DistributedTest] | None:
    """The class of a test that is derived from :class:`DistributedTest`."""
    found = getattr(item, "cls", None)
    return found if _derives(found, DistributedTest) else None


def _derives(found: object, base: type[_T]) -> TypeGuard[type[_T]]:
    return isinstance(found, type) and issubclass(found, base) and found is not base


# The world


def backend_of(ranks: type[_Ranks], where: str, settings: Settings) -> str:
    """The backend that a class asks for.

    Raises:
        pytest.UsageError: it is none of torch's that a rank can have here.
    """
    # What DeepSpeed's CPU accelerator calls its backend has been "ccl", which gloo stands in for.
    if ranks.backend in (None, "ccl"):
        return settings.backend
    if ranks.backend not in ("gloo", "nccl") or (ranks.backend, settings.device) == ("nccl", "cpu"):
        raise pytest.UsageError(
            f"{where}: backend {ranks.backend!r} is not for ranks on {settings.device}; leave"
            " `backend` out for the device's own"
        )
    return ranks.backend


def fixtures_of(item: pytest.Item) -> Iterator[tuple[str, World]]:
    """The distributed fixtures that a test asks for, in their order, with the world of each.

    Raises:
        pytest.UsageError: one asks for a world that cannot be.
    """
    settings = item.config.stash[SETTINGS]
    for name, fixture in _asked(item).items():
        try:
            size = devices.check_world_size(fixture.world_size, name, settings.capacity)
        except WorldSizeError as error:
            raise pytest.UsageError(str(error)) from None
        backend = backend_of(fixture, name, settings)
        yield (
            name,
            settings.world(size, fixture.exec_timeout, fixture.init_distributed, backend),
        )


def _asked(item: pytest.Item) -> Mapping[str, type[DistributedFixture]]:
    if not isinstance(item, pytest.Function):
        return {}
    known = item._fixtureinfo.name2fixturedefs
    closest = {name: known[name][-1].func for name in item.fixturenames if known.get(name)}
    return {n: getattr(f, _BEFORE) for n, f in closest.items() if hasattr(f, _BEFORE)}


# On a rank


def _stand_in(item: Any, name: str) -> type[DistributedFixture]:
    """Has `item` run a distributed fixture in place of its body, with what that asks for."""
    fixture = _asked(item)[name]
    wanted = _wanted(fixture)
    needed = {*wanted, *item.session._fixturemanager._getautousenames(item)} - {*_asked(item)}
    item.fixturenames = [n for n in item.fixturenames if n in needed]

    def runtest() -> None:
        fixture().run(**{n: item._request.getfixturevalue(n) for n in wanted})

    item.runtest = runtest
    return fixture


def prepare_rank(item: pytest.Item) -> None:
    """What a class says of its ranks, before the first fixture is set up."""
    name = item.stash.get(FIXTURE, "")
    ranks: type[_Ranks] | None = _stand_in(item, name) if name else test_class(item)
    if ranks is None:
        return
    if ranks.init_distributed:
        import deepspeed

        # The process group is there already; DeepSpeed's own module has to hear of it.
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    if not ranks.set_dist_env:
        for variable in _VARIABLES:
            os.environ.pop(variable, None)


@pytest.fixture(scope="class")
def class_tmpdir(request: pytest.FixtureRequest, tmp_path_factory: Any, tmpdir_factory: Any) -> Any:
    """One directory for all tests of a class and their distributed fixtures (`py.path.local`)."""
    base: Path = getattr(tmp_path_factory, "ds_session", None) or tmp_path_factory.getbasetemp()
    nodeid = request.node.nodeid
    # Of classes that have the same name in files of the same name each has its own.
    folder = base / "class_tmpdir" / f"{request.node.name}_{zlib.crc32(nodeid.encode()):08x}"
    folder.mkdir(parents=True, exist_ok=True)
    return type(tmpdir_factory.getbasetemp())(folder)
