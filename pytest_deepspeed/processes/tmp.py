"""One temporary directory for all ranks of a test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any


def share(factory: Any, basetemp: Path) -> None:
    """Makes a rank's `tmp_path_factory` give the same directory to the same call on each rank.

    pytest's own factory numbers directories by looking at what is there, so that two ranks would
    get two; here a number counts the rank's own calls, which are the same on all ranks. Nothing is
    removed by a rank, since others may still use it: the controller's factory does that.

    Args:
        factory: the rank's own copy of the session's `pytest.TempPathFactory`. Its class is final
            and its constructor differs between pytest versions, so the instance is changed.
        basetemp: an existing directory of this test, under the controller's base.
    """
    calls: Counter[str] = Counter()

    def mktemp(basename: str, numbered: bool = True) -> Path:
        name = factory._ensure_relative_to_basetemp(basename)
        if numbered:
            number = calls[name]
            calls[name] += 1
            name = f"{name}{number}"
        path: Path = basetemp / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    factory._basetemp = basetemp.resolve()
    factory._retention_policy = "all"
    factory.ds_session = basetemp.resolve().parent
    factory.mktemp = mktemp
