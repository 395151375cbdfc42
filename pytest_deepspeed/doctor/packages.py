"""Python, and the packages that ranks need: their versions, and whether they import."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

from pytest_deepspeed.doctor import installing
from pytest_deepspeed.processes.probe import Answer
from pytest_deepspeed.values import versions
from pytest_deepspeed.values.checkup import Line

#: Without these nothing runs; without the others some tests do not.
_NEEDED = ("torch", "deepspeed")


def installed() -> dict[str, str]:
    """The versions of what `versions.LOWEST` names; a package that is not there is left out."""
    found = {"python": platform.python_version()}
    for name in versions.LOWEST:
        try:
            found.setdefault(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return found


def lines(found: Mapping[str, str], answers: Mapping[str, Answer]) -> Iterator[Line]:
    """What was found, and what a process that imports it all has answered."""
    own = metadata.version("pytest-deepspeed")
    yield Line("ok", "python", f"{found['python']} in {sys.prefix}")
    for name in _NEEDED:
        yield _needed(name, found, answers)
    yield _lightning(found, answers.get("lightning"))
    xdist = found.get("pytest-xdist", "none")
    yield Line("ok", "pytest", f"{found['pytest']}, pytest-xdist {xdist}, pytest-deepspeed {own}")
    yield _together(found)


def _needed(name: str, found: Mapping[str, str], answers: Mapping[str, Answer]) -> Line:
    answer = answers.get(name)
    if name not in found:
        return Line("!!", name, "not installed", installing.pip(_wanted(name)))
    if answer is None:
        return Line("!!", name, f"{found[name]}, not tried: {_NEEDED[0]} does not import")
    if "error" in answer:
        again = installing.pip(*_index(found[name]), "--force-reinstall", f"{name}=={found[name]}")
        return Line("!!", name, f"{found[name]} does not import: {answer['error']}", again)
    return Line("ok", name, f"{answer['version']}, imported in {answer['seconds']:.1f} s")


def _lightning(found: Mapping[str, str], answer: Answer | None) -> Line:
    missing = [name for name in ("pytorch-lightning", "torchvision") if name not in found]
    if missing:
        words = installing.pip(*map(_wanted, missing))
        return Line("--", "lightning", f"not installed: {', '.join(missing)}", words)
    text = f"{found['pytorch-lightning']}, torchvision {found['torchvision']}"
    if pair := _other_torch(found):
        words = installing.pip(f"torch=={pair}", "torchvision")
        return Line("--", "lightning", f"{text}, which is for torch {pair}", words)
    if answer is None:
        return Line("--", "lightning", f"{text}; not tried, see above")
    if "error" in answer:
        words = installing.pip("--force-reinstall", "pytorch-lightning", "torchvision")
        return Line("--", "lightning", f"{text}: {answer['error']}", words)
    return Line("ok", "lightning", text)


def _other_torch(found: Mapping[str, str]) -> str:
    """The torch that the installed torchvision was built for, where another one is installed."""
    wanted = " ".join(metadata.requires("torchvision") or ())
    pinned = re.search(r"\btorch *\(?==([\d.]+)", wanted)
    same = pinned is None or pinned[1] == _public(found.get("torch", pinned[1]))
    return "" if same or pinned is None else pinned[1]


def _together(found: Mapping[str, str]) -> Line:
    if old := versions.too_old(found):
        text = ", ".join(f"{name} {found[name]}" for name in old)
        words = installing.pip(*(f"{name}>={lowest}" for name, lowest in old.items()))
        return Line("!!", "together", f"too old: {text}", words)
    if odd := versions.untested(found):
        text = "; ".join(f"{name} {found[name]} (tested: {odd[name]})" for name in odd)
        known = versions.TESTED["newest"]
        pins = [f"{name}=={known[name]}" for name in odd if name != "python"]
        words = installing.pip(*pins) if pins else ""
        return Line("--", "together", f"not tested together: {text}", words)
    return Line("ok", "together", "these versions are known to work together")


def _wanted(name: str) -> str:
    return f"{name}>={versions.LOWEST[name]}"


def _index(version: str) -> list[str]:
    """Where pip finds a torch with a local version, such as ``"2.13.0+cpu"``: at PyTorch's own."""
    local = version.partition("+")[2]
    return ["--index-url", f"https://download.pytorch.org/whl/{local}"] if local else []


def _public(version: str) -> str:
    """Without the local part: ``"2.13.0"`` of ``"2.13.0+cpu"``, as indexes have it."""
    return version.partition("+")[0]
