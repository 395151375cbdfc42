"""What compiles DeepSpeed's ops, and which of them are compiled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from pytest_deepspeed.doctor import installing
from pytest_deepspeed.processes import ops
from pytest_deepspeed.processes.probe import Answer
from pytest_deepspeed.training import machine
from pytest_deepspeed.values.checkup import Line

#: Of which it is said whether they are built. The last is DeepSpeed's for CPUs alone, and ranks
#: of the plugin do without it.
_OPS = ("fused_adam", "cpu_adam", "async_io", "deepspeed_shm_comm")


def lines(device: str, answers: Mapping[str, Answer]) -> Iterator[Line]:
    """The compiler, the CUDA toolkit where ranks compute on GPUs, libaio, the ops."""
    yield from _compiler()
    if device == "cuda":
        yield _toolkit(answers)
    yield _libaio(device)
    yield _ops(device)


def _compiler() -> Iterator[Line]:
    compiler = os.environ.get("CXX", "c++")
    path = ops.environment(os.environ, "cpu")["PATH"]
    ninja = _version(shutil.which("ninja", path=path))
    said = _version(shutil.which(compiler, path=path))
    header = Path(sysconfig.get_path("include")) / "Python.h"
    lacks = {
        f"no C++ compiler ({compiler})": "" if said else installing.command("compiler"),
        "no ninja": "" if ninja else installing.pip("ninja"),
        "no Python.h": "" if header.is_file() else installing.command("headers"),
    }
    missing = [what for what, remedy in lacks.items() if remedy]
    if not missing:
        yield Line("ok", "compiler", f"{compiler} {said}, ninja {ninja}, Python.h")
        return
    text = f"{', '.join(missing)}: ops that are not built cannot be"
    yield Line("--", "compiler", text, "; ".join(filter(None, lacks.values())))


def _version(program: str | None) -> str:
    """The version that a program names last in its first line; empty where none runs."""
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    first = done.stdout.strip().partition("\n")[0]
    found: list[str] = re.findall(r"(?<![\w.-])\d+(?:\.\d+)+", first)
    return found[-1] if found else "of unknown version"


def _toolkit(answers: Mapping[str, Answer]) -> Line:
    cuda = answers.get("torch", {}).get("cuda")
    answer = answers.get("toolkit", {"missing": "not looked at, see above"})
    load = installing.command("cuda")
    fitting = f"{load}/{cuda}" if load.startswith("module") else f"the toolkit {cuda}: {load}"
    if why := answer.get("missing") or answer.get("error"):
        return Line("--", "toolkit", f"no CUDA {cuda}: {why}", fitting)
    if "mismatch" in answer:
        text = f"CUDA {answer['version']}, and torch is built for {cuda}: DeepSpeed refuses"
        return Line("--", "toolkit", text, fitting)
    return Line("ok", "toolkit", f"CUDA {answer['version']}, torch is built for {cuda}")


def _libaio(device: str) -> Line:
    try:
        if why := machine.no_async_io(device):
            text, _, remedy = why.partition(": apt-get")
            words = installing.command("compiler" if "compiler" in text else "libaio")
            return Line("--", "libaio", text, words if remedy else "")
    except metadata.PackageNotFoundError:
        return Line("--", "libaio", "not looked at, see above")
    return Line("ok", "libaio", "there, with its headers where a build needs them; io_setup works")


def _ops(device: str) -> Line:
    names = _OPS if device == "cpu" else _OPS[:-1]
    try:
        missing = [name for name in names if ops.built(name, device) is None]
    except metadata.PackageNotFoundError as error:
        return Line("--", "ops", f"none: {error.name} is not installed")
    built = [name for name in names if name not in missing]
    text = f"built: {', '.join(built) or 'none'}"
    if not missing:
        return Line("ok", "ops", text)
    accelerator = "" if device == "cpu" else f" --accelerator {device}"
    build = f"{sys.executable} -m pytest_deepspeed.processes.ops{accelerator} build"
    text = f"{text}; not built, which the first test that needs it does: {', '.join(missing)}"
    return Line("--", "ops", text, f"{build} {' '.join(missing)}")
