"""Python's packages: missing, broken, too old, untested; what brings each."""

import re
import sys
from importlib import metadata

from pytest_deepspeed.doctor import packages
from pytest_deepspeed.values.checkup import Line

PIP = f"{sys.executable} -m pip install"
INSTALLED = packages.installed()


def package_lines(found, answers):
    """The lines of the packages, by topic."""
    return {line.topic: line for line in packages.lines(found, answers)}


def test_packages_that_are_missing():
    """Protects: torch and DeepSpeed are needed, Lightning is not; pip's line brings each."""
    found = {"python": "3.11.7", "pytest": "9.2.0"}
    lines = package_lines(found, {})

    assert lines["torch"] == Line("!!", "torch", "not installed", f"{PIP} 'torch>=2.11'")
    assert lines["deepspeed"] == Line(
        "!!", "deepspeed", "not installed", f"{PIP} 'deepspeed>=0.19.3'"
    )
    assert lines["lightning"] == Line(
        "--",
        "lightning",
        "not installed: pytorch-lightning, torchvision",
        f"{PIP} 'pytorch-lightning>=2.6' 'torchvision>=0.26'",
    )
    assert lines["pytest"] == Line(
        "ok",
        "pytest",
        f"9.2.0, pytest-xdist none, pytest-deepspeed {metadata.version('pytest-deepspeed')}",
    )


def test_a_torch_that_does_not_import():
    """Protects: the reason is shown, and the same build is installed again, from where it is."""
    found = {**INSTALLED, "torch": "2.13.0+cpu"}
    lines = package_lines(found, {"torch": {"error": "ImportError: no libtorch"}})

    assert lines["torch"] == Line(
        "!!",
        "torch",
        "2.13.0+cpu does not import: ImportError: no libtorch",
        f"{PIP} --index-url https://download.pytorch.org/whl/cpu"
        " --force-reinstall torch==2.13.0+cpu",
    )
    assert lines["deepspeed"] == Line(
        "!!", "deepspeed", f"{INSTALLED['deepspeed']}, not tried: torch does not import"
    )


def test_a_lightning_that_does_not_import():
    """Protects: Lightning is reported, and does not keep ranks from running."""
    found = {**INSTALLED, "pytorch-lightning": "2.6.6", "torchvision": "0.28.0"}
    lines = package_lines(found, {"lightning": {"error": "RuntimeError: nms"}})

    assert lines["lightning"] == Line(
        "--",
        "lightning",
        "2.6.6, torchvision 0.28.0: RuntimeError: nms",
        f"{PIP} --force-reinstall pytorch-lightning torchvision",
    )


def test_a_torchvision_of_another_torch():
    """Protects: torchvision's own requirement says which torch it is for."""
    pinned = re.search(r"\btorch *\(?(==[\d.]+)", " ".join(metadata.requires("torchvision")))[1]
    lines = package_lines({**INSTALLED, "torch": "2.12.0", "torchvision": "0.28.0"}, {})

    assert lines["lightning"] == Line(
        "--",
        "lightning",
        f"{INSTALLED['pytorch-lightning']}, torchvision 0.28.0, which is for torch {pinned[2:]}",
        f"{PIP} torch{pinned} torchvision",
    )


def test_versions_that_are_too_old():
    """Protects: a version that is not supported is no version to run with."""
    lines = package_lines({**INSTALLED, "deepspeed": "0.18.9", "pytest": "8.3.5"}, {})

    assert lines["together"] == Line(
        "!!",
        "together",
        "too old: deepspeed 0.18.9, pytest 8.3.5",
        f"{PIP} 'deepspeed>=0.19.3' 'pytest>=8.4'",
    )


def test_versions_that_nobody_has_tested():
    """Protects: a newer release is said to be untested, with the newest that was."""
    lines = package_lines({**INSTALLED, "torch": "2.15.0"}, {})

    assert lines["together"] == Line(
        "--",
        "together",
        "not tested together: torch 2.15.0 (tested: 2.13.0)",
        f"{PIP} torch==2.13.0",
    )
