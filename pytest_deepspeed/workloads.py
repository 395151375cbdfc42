"""The user's own workload: ``--ds-workload`` or the hook ``pytest_ds_workload``.

The controller names it, the ranks make it: see `pytest_deepspeed.training.workload.source`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.options import SETTINGS, TRAP
from pytest_deepspeed.training.workload import source

_HOOK = "pytest_ds_workload"


def reference(node: pytest.Item | pytest.Collector) -> str:
    """What the checks of a test, or of a file, shall train: a reference; empty for the trap model.

    A hook counts where it is of a plugin, or of a ``conftest.py`` in a directory above the test.
    """
    named = str(node.config.stash[SETTINGS].workload)
    if named:
        return "" if named == TRAP else named
    hooks = getattr(node.ihook, _HOOK).get_hookimpls()
    files = sorted(_file(hook) for hook in hooks)
    return source.HOOK + ", ".join(files) if files else ""


def provide(config: pytest.Config) -> None:
    """Tells a process that has ranks what they need to make a workload of a reference."""
    given: dict[str, str] = config.stash[SETTINGS].given
    match = re.search(r"\((.+)\)$", given.get("workload", ""))
    source.provide(
        hook=functools.partial(_call_hook, config),
        root=str(config.rootpath),
        where=match[1] if match else "--ds-workload",
    )


def provide_without_pytest() -> None:
    """The same for ranks of torchrun, which have no session: a hook's file brings its config."""
    source.provide(
        hook=lambda named, ds_config: _call_hook(_config_of(named), named, ds_config),
        root=str(Path.cwd()),
        where="--ds-workload",
    )


def _call_hook(config: pytest.Config, named: str, ds_config: Mapping[str, Any]) -> Any:
    wanted = named.removeprefix(source.HOOK).split(", ")
    hooks = getattr(config.hook, _HOOK).get_hookimpls()
    others = [hook.plugin for hook in hooks if _file(hook) not in wanted]
    caller = config.pluginmanager.subset_hook_caller(_HOOK, others)
    return caller(config=config, ds_config=ds_config)


def _config_of(named: str) -> pytest.Config:
    """A config with the hooks of a reference, from the directories of their files."""
    from _pytest.config import _prepareconfig

    files = named.removeprefix(source.HOOK).split(", ")
    folders = sorted({str(Path(file).parent) for file in files})
    return _prepareconfig(["-p", "no:cacheprovider", *folders], None)


def _file(hook: Any) -> str:
    """Where a hook is: the file of its function."""
    return str(hook.function.__code__.co_filename)
