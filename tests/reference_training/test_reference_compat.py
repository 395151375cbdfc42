"""Importing torchvision beside a torch that it was not built for."""

import subprocess
import sys

import pytest

REPORT = """
from reference_training import compat
print(compat.import_torchvision().__name__, len(compat._kept))
"""
# What torchvision does at import, which fails where its library did not load.
NEEDS_NMS = """
import torch
torch.library.register_fake("torchvision::nms")(lambda *arguments: None)
torch.library.register_fake("torchvision::qnms")(lambda *arguments: None)
"""


def run(script, folder=None):
    """Run a script in a new process, with `folder` first on the path."""
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    return subprocess.run(
        [sys.executable, "-c", path + script], capture_output=True, text=True, check=False
    )


@pytest.fixture
def package(tmp_path):
    """Return a function that writes a package `torchvision` with the given source."""

    def write(source):
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(source)
        return tmp_path

    return write


def test_the_installed_torchvision():
    """It is importable, its data sets too, and helped only where it does not import by itself."""
    plain = run("import torchvision")
    helped = run(REPORT + "from torchvision.datasets import CIFAR10")
    assert helped.stdout == f"torchvision {int(plain.returncode != 0)}\n", helped.stderr


def test_missing_operators_are_declared(package):
    """The error that torch itself raises for them is the one that is met."""
    folder = package(NEEDS_NMS)
    plain = run("import torchvision", folder)
    assert plain.stderr.endswith("RuntimeError: operator torchvision::nms does not exist\n")
    assert run(REPORT, folder).stdout == "torchvision 1\n"


def test_nothing_is_declared_where_it_works(package):
    """A working torchvision keeps its own operators."""
    assert run(REPORT, package("")).stdout == "torchvision 0\n"


def test_another_error_is_passed_on(package):
    """An unknown failure is not papered over."""
    result = run(REPORT, package("raise RuntimeError('operator torchvision::roi_align is broken')"))
    assert result.stdout == ""
    assert result.stderr.endswith("RuntimeError: operator torchvision::roi_align is broken\n")
