"""Tests of what needs a GPU; each is skipped without one, with what is missing."""

import pytest

from pytest_deepspeed.processes import devices


def _lacking():
    if not devices.granted_gpus():
        return "needs a GPU, and this process has none: run it where there is one (docs/gpus.md)"
    if version := devices.torch_without_cuda():
        return (
            f"needs a torch that is built for CUDA, and torch {version} is not: pip install torch"
            " (docs/gpus.md)"
        )
    return ""


def pytest_collection_modifyitems(items):
    """Skips the tests of this folder on a machine that cannot run them."""
    reason = _lacking()
    for item in items if reason else ():
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.skip(reason=reason))
