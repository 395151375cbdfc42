"""The pytest plugin: hooks that forward. Imports neither torch nor deepspeed."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed import (
    against,
    collector,
    distributed,
    durations,
    hookspecs,
    limits,
    markers,
    options,
    requirements,
    scheduling,
    workloads,
)
from pytest_deepspeed.collector import collect_odd_entries
from pytest_deepspeed.distributed import class_tmpdir  # noqa: F401 (as those of fixtures)
from pytest_deepspeed.ending import Ending
from pytest_deepspeed.fixtures import (  # noqa: F401 (pytest finds fixtures as attributes)
    device,
    ds_check,
    ds_config,
    ds_data,
    ds_run,
    ds_train,
    local_rank,
    node_rank,
    rank,
    rank_tmp_path,
    world_size,
)
from pytest_deepspeed.reporting import collect
from pytest_deepspeed.summary import Summary
from pytest_deepspeed.values import role
from pytest_deepspeed.values.world import under_torchrun


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and their ini twins."""
    options.add_options(parser)
    limits.add_ini(parser)
    collector.add_ini(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """The hooks of our own."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """``--ds-doctor``: a screen in place of a session, also where options cannot be settled."""
    if not config.getoption("ds_doctor") or not sys.platform.startswith("linux"):
        return None
    from pytest_deepspeed import doctor

    return doctor.main(config)


def pytest_configure(config: pytest.Config) -> None:
    """Settles the options once; an error in them ends the session before it starts."""
    if not sys.platform.startswith("linux"):
        raise pytest.UsageError(
            "pytest-deepspeed forks its ranks and supervises them with pidfd and prctl: it runs on"
            f" Linux and WSL2, not on {sys.platform}. Leave it out here with"
            " -p no:pytest_deepspeed"
        )
    markers.register(config)
    limits.register(config)
    config.stash[options.SETTINGS] = options.settle(config)
    collector.configure(config)
    against.configure(config)
    if role.current() == "controller":
        config.pluginmanager.register(Summary(), "pytest_deepspeed_summary")
        collect.register(config)
        scheduling.configure(config)
        durations.configure(config)
        if config.stash[options.SETTINGS].nodes and config.getoption("dist", "no") != "no":
            Ending.take_over(config)
    else:
        workloads.provide(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What is not the default, and where it came from; the nodes."""
    settings = config.stash[options.SETTINGS]
    lines = []
    if settings.given:
        given = (f"{name}={value}" for name, value in settings.given.items())
        lines.append("deepspeed: " + ", ".join(given))
    if settings.nodes:
        names = ", ".join(launch.node for launch in settings.launches)
        job = f"of Slurm job {os.environ.get('SLURM_JOB_ID')}"
        where = "emulated on this machine" if settings.launcher == "local" else job
        lines.append(f"nodes: {names} ({where})")
    return lines


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """DeepSpeed configs are test files."""
    return collector.collect_file(file_path, parent)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Collector | None:
    """A Lightning script that `ds_lightning_files` names is no module to import."""
    return collector.make_module(module_path, parent)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Collector, name: str, obj: object
) -> Generator[None, Any, Any]:
    """The classes `DistributedTest` and `DistributedFixture` are what their attributes say."""
    distributed.adopt(collector, name, obj)
    return distributed.marked_class((yield), obj)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """What has the name of a config and is no file fails, where pytest would pass over it."""
    return (yield from collect_odd_entries(collector))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each size of ``world_size([...])``."""
    markers.parametrize_world_size(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mode markers, in time for ``-m``; what is wrong with ``multinode``, before any test runs."""
    markers.add_mode_markers(item)
    markers.nodes_of(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers of pytest-xdist begin with what takes longest."""
    if role.current() == "controller":
        scheduling.long_first(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs more nodes than there are is skipped."""
    requirements.need_nodes(item)
    if role.current() == "rank":
        distributed.prepare_rank(item)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of pytest-xdist is told where its ranks' progress is looked for."""
    from pytest_deepspeed.live import session as live

    live.tell_worker(node)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """The controller of pytest-xdist draws what its workers' ranks train."""
    if session.config.pluginmanager.hasplugin("dsession"):
        from pytest_deepspeed.live import session as live

        live.watch_workers(session.config)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Hands the tests that need ranks over. A session that has none imports no more than this."""
    config = session.config
    if role.current() != "controller" or config.option.collectonly:
        return
    ranked = [item for item in session.items if markers.is_ranked(item)]
    if ranked and markers.wants_this_process(config):
        from pytest_deepspeed.inprocess import InProcess

        InProcess.take_over(config, ranked)
        ranked = []
    callers = [] if under_torchrun() else list(filter(markers.starts_worlds, session.items))
    if ranked or callers:
        from pytest_deepspeed.controller import Controller

        Controller.take_over(config, ranked, callers)
