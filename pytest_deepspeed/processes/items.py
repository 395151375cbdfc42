"""Which item a ``run`` frame asks for, or what stands for the function that it names."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest

from pytest_deepspeed.processes import channel

#: Of an item on a rank: the distributed fixture that runs in its place, or empty.
FIXTURE = pytest.StashKey[str]()


class CallItem(pytest.Item):
    """A function that `ds_run` runs on ranks, as an item, so that it is reported like one."""

    def __init__(self, *, call: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._call = call
        self.returned: str | None = None

    def runtest(self) -> None:
        from pytest_deepspeed.processes.call import call_on_rank

        self.returned = call_on_rank(self._call)

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        """Only the function and what it calls, as pytest does for a test function."""
        name = self._call["qualname"].rpartition(".")[2]
        own = excinfo.traceback
        return next((own[i:] for i, e in enumerate(own) if e.name == name), own)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A line a frame where the function is our own: a config is at fault, no code."""
        if self._call["module"].startswith("pytest_deepspeed.") and style is None:
            style = "short" if self.config.getoption("tbstyle", "auto") == "auto" else None
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


def item_for(items: dict[str, pytest.Item], order: channel.Frame) -> pytest.Item:
    """The item that a ``run`` frame asks for, or one that stands for the function it names.

    Raises:
        KeyError: no item of that id was collected.
    """
    item = items[order["nodeid"]]
    if order["call"] is None:
        return item
    assert item.parent is not None
    name = order["call"]["qualname"]
    made: CallItem = CallItem.from_parent(item.parent, name=name, call=order["call"])
    return made


def unknown(nodeid: str, items: dict[str, pytest.Item], errors: dict[str, str]) -> str:
    """Why an id is not among the collected ones.

    Args:
        nodeid: the id that the controller has.
        items: what was collected here, by id.
        errors: why collecting a file failed here, by its id.
    """
    text = f"the agent has not collected {nodeid}"
    found = [error for node, error in errors.items() if nodeid.startswith(node)]
    if found:
        return f"{text}, since collecting failed in it:\n" + "\n".join(found)
    file = nodeid.partition("::")[0]
    same = [known for known in items if known.partition("::")[0] == file]
    near = difflib.get_close_matches(nodeid, same, n=3, cutoff=0.5)
    if near:
        text += "; it has " + ", ".join(near)
    return (
        f"{text}. The controller and its agent must collect the same ids: a parametrization"
        " that is random, or ordered by a set, differs between processes"
    )
