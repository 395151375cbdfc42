"""What a session says of itself: when, where and on what it ran. Nothing of its environment."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from pytest_deepspeed.options import SETTINGS

#: Packages whose versions decide what a training does.
_PACKAGES = ("torch", "deepspeed", "pytorch-lightning", "pytest")


def version(package: str) -> str:
    """Of an installed package; ``"?"`` where it is not installed as one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def machine(config: pytest.Config) -> dict[str, str]:
    """What trainings ran on, without importing torch."""
    settings = config.stash[SETTINGS]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0))),
        "device": settings.device,
        "backend": settings.backend,
        "nodes": str(settings.nodes or 1),
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def header(config: pytest.Config) -> list[str]:
    """The lines of pytest's header that are this plugin's."""
    plugin = config.pluginmanager.getplugin("pytest_deepspeed")
    return list(plugin.pytest_report_header(config)) if plugin is not None else []


def command(config: pytest.Config) -> str:
    """What was typed after ``pytest``, as a shell takes it."""
    return shlex.join(["pytest", *(str(arg) for arg in config.invocation_params.args)])


def iso(seconds: float) -> str:
    """A time since the epoch as ISO 8601, in the local time zone."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone()
    return moment.isoformat(timespec="seconds")


def prefix(root: Path) -> str:
    """From the root of the repository to ``root``, with a slash at its end; else nothing."""
    top = next((path for path in (root, *root.parents) if (path / ".git").exists()), root)
    inner = root.relative_to(top).as_posix()
    return "" if inner == "." else f"{inner}/"
