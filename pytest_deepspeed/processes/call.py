"""A function of a test module, called on ranks: by reference there, its value pickled back."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pytest_deepspeed.processes import channel, devices


def reference(function: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """How a rank finds ``function`` and what it is called with.

    Raises:
        ValueError: the function is not importable by name, or an argument cannot be pickled.
    """
    __tracebackhide__ = True
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", repr(function))
    if not module or "<" in qualname:
        raise ValueError(
            f"ds_run needs a function at the top level of a module, which ranks can import by name;"
            f" {qualname} is not. Move it out of the test"
        )
    try:
        packed = channel.pack(kwargs)
    except Exception as error:  # noqa: BLE001 (pickling runs code of any class)
        raise ValueError(
            f"ds_run cannot pickle the arguments of {qualname}: {type(error).__name__}: {error}."
            " Pass plain data: numbers, paths, lists, CPU tensors"
        ) from None
    file = getattr(sys.modules.get(module), "__file__", None)
    return {"module": module, "qualname": qualname, "kwargs": packed, "file": file}


def call_on_rank(call: dict[str, Any]) -> str:
    """Calls it and returns its value, pickled.

    ``rank``, ``local_rank``, ``node_rank``, ``world_size`` and ``device`` are filled in where the
    function takes them and the caller did not give them.

    Fails the test where the value cannot be pickled.
    """
    module = sys.modules.get(call["module"]) or importlib.import_module(call["module"])
    function: Any = module
    for part in call["qualname"].split("."):
        function = getattr(function, part)
    kwargs = channel.unpack(call["kwargs"])
    for name, value in _known().items():
        if name in inspect.signature(function).parameters:
            kwargs.setdefault(name, value)
    value = function(**kwargs)
    try:
        return channel.pack(value)
    except Exception as error:  # noqa: BLE001 (pickling runs code of any class)
        raise pytest.fail.Exception(
            f"{call['qualname']} returned a {type(value).__name__} that cannot be pickled"
            f" ({type(error).__name__}: {error}). Return plain data: numbers, lists, CPU tensors",
            pytrace=False,
        ) from None


def _known() -> dict[str, Any]:
    import torch

    local_rank = int(os.environ["LOCAL_RANK"])
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "rank": int(os.environ["RANK"]),
        "local_rank": local_rank,
        "node_rank": int(os.environ["GROUP_RANK"]),
        "world_size": int(os.environ["WORLD_SIZE"]),
        "device": devices.of_rank(os.environ.get("DS_ACCELERATOR") or usual, local_rank),
    }
