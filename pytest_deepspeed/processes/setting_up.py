"""What an agent sets up before it collects: imports, and a config like the controller's.

Also for a spawned rank, which does the same.
"""

from __future__ import annotations

import pytest

from pytest_deepspeed.processes import builds, channel, collectives, gpu, ops, preload

#: Plugins that act in the controller on the whole test and must not act a second time in a rank,
#: with the marker that each registers: a test that carries it must still pass ``--strict-markers``.
_CONTROLLERS_OWN = {"rerunfailures": "flaky", "timeout": "timeout"}


def prepare(start: channel.Frame) -> pytest.Config:
    """Imports what ranks need, and a config that has not collected yet; also for a spawned rank."""
    preload.prepare_environment(start["device"])
    preload.preload()
    preload.after_deepspeed(_settle_ops)
    if start["engines"] or start["device"] == "cuda":
        preload.preload_engines()
    if start["device"] == "cuda":
        gpu.watch()
    collectives.install()
    return _configure(start)


def _settle_ops() -> None:
    preload.settle_compatible_ops()
    ops.install_hook(builds.obtain)


def _configure(start: channel.Frame) -> pytest.Config:
    """A config from the controller's arguments, quiet in all that is the controller's own.

    The same way as pytest-xdist starts its workers (``xdist/remote.py``): ``workerinput`` is what
    the cache, JUnit, stepwise and many third-party plugins look at.
    """
    from _pytest.config import _prepareconfig

    config = _prepareconfig([*start["args"], *start["extra_args"]], None)
    option = config.option
    quiet = {
        "usepdb": False,
        "trace": False,
        "lf": False,
        "failedfirst": False,
        "newfirst": False,
        "cacheclear": False,
        "stepwise": False,
        "stepwise_skip": False,
        "maxfail": 0,
        "looponfail": False,
        "dist": "no",
        "distload": False,
        "loadgroup": start["loadgroup"],
        "numprocesses": None,
        "maxprocesses": None,
        "tx": [],
        "log_cli_level": None,
        "log_file": None,
        "durations": None,
        "basetemp": None,
        "color": "no",
        "continue_on_collection_errors": True,
    }
    for name, value in quiet.items():
        if hasattr(option, name):
            setattr(option, name, value)
    for name, marker in _CONTROLLERS_OWN.items():
        if (plugin := config.pluginmanager.getplugin(name)) is not None:
            config.pluginmanager.unregister(plugin)
            config.addinivalue_line("markers", f"{marker}: acts in the controller")
    config.workerinput = start["workerinput"]  # type: ignore[attr-defined]
    config.workeroutput = {}  # type: ignore[attr-defined]
    return config
