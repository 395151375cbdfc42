"""What several tests of a session need is computed once, also across xdist's workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_deepspeed.errors import RanksFailed


def folder(config: pytest.Config, name: str = "ds_shared") -> Path:
    """A directory of this session, the same one for all of xdist's workers."""
    base: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    path.mkdir(exist_ok=True)
    return path


def once(config: pytest.Config, key: str, who: str, make: Callable[[Path], str]) -> str:
    """The text that ``make`` returned for this key, whichever test of the session asked first.

    Others that ask meanwhile wait for it.

    Args:
        key: names it; a file name.
        who: the test that asks, for the others where it fails. It may ask again: a rerun of it
            makes it anew.
        make: called with a directory of its own.

    Raises:
        RanksFailed: ``make`` raised it now: its text; or it did so for another test: which one.
    """
    __tracebackhide__ = True
    home = folder(config) / key
    home.mkdir(exist_ok=True)
    result, failed = home / "result", home / "failed_in"
    with FileLock(home / "lock"):
        if result.exists():
            return result.read_text()
        if failed.exists() and (where := failed.read_text()) != who:
            raise RanksFailed(f"its training failed; the failure is shown at {where}")
        try:
            text = make(home)
        except RanksFailed:
            failed.write_text(who)
            raise
        # Renamed, so that an interrupted session leaves no half of it.
        unfinished = home / "unfinished"
        unfinished.write_text(text)
        unfinished.rename(result)
        return text
