"""The fixtures, on ranks and in the controller."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_deepspeed.markers import config_of, where_of
from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.processes import devices
from pytest_deepspeed.requirements import need_nvme
from pytest_deepspeed.values import role
from pytest_deepspeed.values.world import under_torchrun

if TYPE_CHECKING:
    import torch

    from pytest_deepspeed.checking import DsCheck
    from pytest_deepspeed.training.run import Run


def _from_rank(request: pytest.FixtureRequest, variable: str) -> int:
    if role.current() != "rank":
        pytest.fail(
            # A session fixture's own node is the session; the test that asks is what is marked.
            f"{where_of(request._pyfuncitem)}: the fixture {request.fixturename!r} exists on ranks"
            " only: mark the test with @pytest.mark.world_size(2)",
            pytrace=False,
        )
    return int(os.environ[variable])


@pytest.fixture(scope="session")
def rank(request: pytest.FixtureRequest) -> int:
    """This process's rank in its world, from 0."""
    return _from_rank(request, "RANK")


@pytest.fixture(scope="session")
def local_rank(request: pytest.FixtureRequest) -> int:
    """This process's rank among those of its node, from 0."""
    return _from_rank(request, "LOCAL_RANK")


@pytest.fixture(scope="session")
def node_rank(request: pytest.FixtureRequest) -> int:
    """The number of this rank's node in its world, from 0."""
    return _from_rank(request, "GROUP_RANK")


@pytest.fixture(scope="session")
def world_size(request: pytest.FixtureRequest) -> int:
    """How many ranks the test runs on."""
    return _from_rank(request, "WORLD_SIZE")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of this rank: ``cpu``, or ``cuda:<local_rank>``, modulo the GPUs it may use."""
    local_rank = _from_rank(request, "LOCAL_RANK")
    return devices.of_rank(request.config.stash[SETTINGS].device, local_rank)


@pytest.fixture
def rank_tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A temporary directory of this rank alone; `tmp_path` is one for all ranks of the test."""
    path = tmp_path / f"rank{_from_rank(request, 'RANK')}"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture
def ds_data(request: pytest.FixtureRequest) -> str:
    """What ``--ds-data`` says, for `reference_training.data.load`."""
    return request.config.stash[SETTINGS].data


@pytest.fixture
def ds_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The DeepSpeed config that the test's ``ds_config`` marker describes.

    Where this machine cannot run it as written (fp16 on a CPU), it is changed, and what was changed
    stands in the report, in the summary and in the JUnit properties; with ``--ds-require=exact``
    the test fails instead.
    """
    from pytest_deepspeed.training.config import adapted

    if request.node.get_closest_marker("ds_config") is None:
        ranked = "" if role.current() == "rank" else "@pytest.mark.world_size(2) and "
        pytest.fail(
            f"{where_of(request.node)}: the fixture 'ds_config' needs a config: mark the test with"
            f" {ranked}@pytest.mark.ds_config(stage=2)",
            pytrace=False,
        )
    settings = request.config.stash[SETTINGS]
    config, changes = adapted(config_of(request.node), settings.device)
    if changes and "exact" in settings.require:
        pytest.fail("--ds-require=exact: " + "; ".join(changes), pytrace=False)
    for change in changes:
        request.node.user_properties.append(("ds_adapted", change))
    return _with_nvme(request, config)


def _with_nvme(request: pytest.FixtureRequest, config: dict[str, Any]) -> dict[str, Any]:
    """The config with a directory of this test to swap to, where it offloads to NVMe."""
    from pytest_deepspeed.training import nvme

    if not nvme.swaps(config) and not nvme.lacks_path(config):
        return config
    settings = request.config.stash[SETTINGS]
    tmp_path: Path = request.getfixturevalue("tmp_path")
    base = settings.nvme_path or tmp_path
    if nvme.swaps(config):
        need_nvme(settings, base)
    if not nvme.lacks_path(config):
        return config
    folder = nvme.folder_of_test(base, tmp_path)
    rank = int(os.environ.get("RANK", "0"))
    request.addfinalizer(lambda: nvme.remove_rank(folder, rank))
    return nvme.with_path(config, folder)


@pytest.fixture
def ds_train(request: pytest.FixtureRequest, ds_config: dict[str, Any], ds_data: str) -> DsTrain:
    """Trains the reference CIFAR10 net under the test's config, on each rank."""
    _from_rank(request, "RANK")
    return DsTrain(request, ds_config, ds_data)


class DsTrain:
    """What the fixture `ds_train` gives."""

    def __init__(self, request: pytest.FixtureRequest, config: dict[str, Any], data: str) -> None:
        self._request = request
        self._config = config
        self._data = data

    def __call__(self, steps: int = 20, width: int = 1) -> Run:
        """Trains ``steps`` optimizer steps and records them with the test.

        Args:
            steps: optimizer steps.
            width: factor of all hidden widths; 1 is the seed's net of 62,006 parameters.

        Returns:
            `pytest_deepspeed.training.run.Run`; its `check` says what is wrong.
        """
        from pytest_deepspeed.training.run import train

        seed = self._request.config.stash[SETTINGS].seed
        run = train(self._config, data=self._data, steps=steps, seed=seed, width=width)
        self._request.node.user_properties.extend(run.properties())
        return run


@pytest.fixture
def ds_run(request: pytest.FixtureRequest) -> DsRun:
    """Runs a function on the fresh ranks of a world of its own, from a test of the controller."""
    need_controller(request.node, f"the fixture {request.fixturename!r}")
    return DsRun(request.node)


@pytest.fixture
def ds_check(request: pytest.FixtureRequest) -> DsCheck:
    """Checks the config of a test by trainings on ranks that all its checks share."""
    from pytest_deepspeed.case import case_of_marker
    from pytest_deepspeed.checking import DsCheck
    from pytest_deepspeed.lightning_case import case_of_lightning, target_of

    item = request.node
    need_controller(item, f"the fixture {request.fixturename!r}")
    if target := target_of(item):
        return DsCheck(item, DsRun(item), lambda studies: case_of_lightning(item, target, studies))
    return DsCheck(item, DsRun(item), lambda _: case_of_marker(item))


def need_controller(item: pytest.Item, what: str) -> None:
    """Fails a test on ranks, or under torchrun, where ``what`` starts worlds of its own."""
    __tracebackhide__ = True
    if role.current() != "controller":
        pytest.fail(
            f"{where_of(item)}: {what} starts worlds from the controller:"
            " take the world_size marker off this test",
            pytrace=False,
        )
    if under_torchrun():
        pytest.fail(
            f"{where_of(item)}: {what} starts worlds of its own and cannot be"
            " used under torchrun: run the test with pytest",
            pytrace=False,
        )


class DsRun:
    """What the fixture `ds_run` gives."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def remove(self, path: Path) -> None:
        """Removes a directory on every node of the session."""
        from pytest_deepspeed.controller import CONTROLLER

        self._item.config.stash[CONTROLLER].remove(path)

    def __call__(
        self,
        function: Callable[..., Any],
        *,
        world_size: int,
        timeout: float | None = None,
        init_process_group: bool = True,
        nodes: int | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Runs ``function(**kwargs)`` on each of ``world_size`` fresh ranks.

        Args:
            function: at the top level of a module. ``rank``, ``local_rank``, ``node_rank``,
                ``world_size`` and ``device`` are given to it where it takes them.
            world_size: ranks of this world; ``--ds-world-size`` does not replace it, since such a
                test is about the sizes it names.
            timeout: budget in seconds, in place of the test's ``ds_timeout`` and ``--ds-timeout``.
            nodes: how many nodes the ranks may be spread over; all of ``--ds-nodes`` if ``None``.
            kwargs: picklable arguments, the same on each rank.

        Returns:
            what each rank returned, in rank order.

        Raises:
            RanksFailed: a rank failed; the text is the first failure with its assertion.
            ValueError: the function or an argument cannot be sent to ranks.
        """
        __tracebackhide__ = True
        from pytest_deepspeed.controller import CONTROLLER

        return self._item.config.stash[CONTROLLER].call(
            self._item, function, world_size, timeout, init_process_group, nodes, kwargs
        )
