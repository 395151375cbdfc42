"""The table of versions, ``pyproject.toml`` and the lanes of ``make test-versions`` are one."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from pytest_deepspeed.doctor import packages
from pytest_deepspeed.values import versions

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LANES = ROOT / "tools" / "versions"


def pins(file):
    """The versions that a file of constraints pins, with those of the file that it includes."""
    text = file.read_text()
    if include := re.search(r"^-c (.+)$", text, re.MULTILINE):
        return pins(file.parent / include[1])
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


def test_lower_bounds_are_pyprojects():
    """Protects: what the doctor calls too old is what pip refuses."""
    bounds = dict(re.fullmatch(r"([\w-]+)>=(.+)", d).groups() for d in PROJECT["dependencies"])
    bounds["python"] = PROJECT["requires-python"].removeprefix(">=")
    del bounds["filelock"]  # not tied to a behaviour of the others

    assert bounds == versions.LOWEST


def test_tested_sets_are_the_lanes():
    """Protects: each set of the table is one that a lane pins, and each lane is in the table."""
    assert sorted(f.stem for f in LANES.glob("*.txt")) == sorted(versions.TESTED)
    for lane, tested in versions.TESTED.items():
        pinned = pins(LANES / f"{lane}.txt")
        assert {n: pinned[n] for n in tested if n != "python"} == {
            n: v for n, v in tested.items() if n != "python"
        }


def test_the_oldest_lane_has_the_lower_bounds():
    """Protects: the oldest lane proves the bounds, but for torch, whose older releases it lacks."""
    oldest = versions.TESTED["oldest"]
    newer = [
        name
        for name, lowest in versions.LOWEST.items()
        if versions.release(oldest[name])[:2] != versions.release(lowest)[:2]
    ]

    assert newer == ["torch", "torchvision"]
    assert oldest["deepspeed"] == versions.LOWEST["deepspeed"]


def test_installed_versions_are_found():
    """Protects: each package of the table is looked up by the name that it has; none is too old."""
    found = packages.installed()

    assert sorted(found) == sorted(versions.LOWEST)
    assert versions.too_old(found) == {}


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2.13.0+cpu", (2, 13, 0)),
        ("2.13", (2, 13, 0)),
        ("0.19.3", (0, 19, 3)),
        ("2.5.1.post0", (2, 5, 1)),
        ("3.14.0rc1", (3, 14, 0)),
        ("unknown", (0, 0, 0)),
    ],
)
def test_release(version, numbers):
    """Protects: builds and pre-releases of a version compare as that version."""
    assert versions.release(version) == numbers


def test_too_old():
    """Protects: an older release is named with the oldest that will do; a build of it is not."""
    found = {"torch": "2.10.0+cu126", "deepspeed": "0.19.2", "pytest": "8.4.0", "python": "3.11.0"}

    assert versions.too_old(found) == {"torch": "2.11", "deepspeed": "0.19.3"}


def test_untested():
    """Protects: what lies between two tested releases is tested, what lies outside is not."""
    inside = {"python": "3.11.15", "deepspeed": "0.19.5", "torch": "2.13.9", "pytest": "9.0.0"}
    outside = {"python": "3.12.1", "deepspeed": "0.20.0", "torch": "2.15.0", "pytest": "9.2.1"}

    assert versions.untested(inside) == {}
    assert versions.untested(outside) == {
        "python": "3.11",
        "deepspeed": "0.19.3 to 0.19.8",
        "torch": "2.13.0",
        "pytest": "8.4.0 to 9.2.0",
    }


def test_who_initialises_cuda():
    """Protects: the version from which ranks can be forked on CUDA stands in one place."""
    assert versions.why_cuda_after_import("0.19.2") == (
        "importing DeepSpeed 0.19.2 (0.19.3 and newer leave CUDA alone)"
    )
    assert versions.why_cuda_after_import("0.19.3") == ""
    assert versions.why_cuda_after_import(metadata.version("deepspeed")) == ""


def test_the_page_has_the_table():
    """Protects: docs/install.md shows the table as it is."""
    page = (ROOT / "docs" / "install.md").read_text()
    rows = re.findall(r"^\| (\w[\w-]*) \| (\S+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    first, last = versions.TESTED["oldest"], versions.TESTED["newest"]

    assert {name.lower(): tuple(cells) for name, *cells in rows} == {
        name: (lowest, first[name], last[name]) for name, lowest in versions.LOWEST.items()
    }
