"""The folder of DeepSpeed's compiled ops: what its name depends on, what counts as finished.

Layout of ``cache_dir(accelerator)``, for an op named NAME:

=============  =====================================================================
NAME/NAME.so   the library, in torch's build folder with ninja's files and objects
NAME.json      the stamp, written last: size, modification time and SHA-256 of it
NAME.lock      held (flock) by the process that builds it
NAME.owner     ``PID HOST`` of the last process that held the lock
NAME.log       everything the last build printed
=============  =====================================================================
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
import sysconfig
from importlib import metadata
from pathlib import Path


class OpBuildError(RuntimeError):
    """An op could not be built; the message says why and what to type."""


def cache_dir(accelerator: str) -> Path:
    """The folder of finished ops that fit this interpreter, installation and machine.

    It is ``<root>/<key>``, root being ``$PYTEST_DS_OPS_CACHE`` or
    ``${XDG_CACHE_HOME:-~/.cache}/pytest-deepspeed/ops``. The key names what an op depends on: the
    versions of Python, torch and DeepSpeed, the accelerator, and by a hash the CPU (DeepSpeed
    compiles with ``-march=native``), the GPUs and where the packages are installed (ninja compares
    command lines, which hold include paths). Nothing is created.
    """
    if root := os.environ.get("PYTEST_DS_OPS_CACHE"):
        return Path(root).expanduser().absolute() / _key(accelerator)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "pytest-deepspeed" / "ops" / _key(accelerator)


def make_cache_dir(accelerator: str) -> Path:
    """:func:`cache_dir`, created and writable.

    Raises:
        OpBuildError: it cannot be created or written to.
    """
    folder = cache_dir(accelerator)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OpBuildError(
            f"cannot write to the cache of compiled DeepSpeed ops, {folder} "
            f"({error.strerror}); name a folder that you may write to: PYTEST_DS_OPS_CACHE=DIR"
        ) from error
    return folder


def built(name: str, accelerator: str) -> Path | None:
    """The finished shared library of op `name`, or None.

    Finished means that its builder has written the stamp and that the library still has the size
    and modification time stamped; where only the time differs, as in a copied cache, the SHA-256
    decides.
    """
    folder = cache_dir(accelerator)
    library = folder / name / f"{name}.so"
    try:
        stamp = json.loads((folder / f"{name}.json").read_text())
        status = library.stat()
        same_size = status.st_size == stamp["size"]
        same_time = status.st_mtime_ns == stamp["mtime_ns"]
        finished = same_size and (same_time or _sha256(library) == stamp["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return library if finished else None


def stamp(name: str, accelerator: str) -> None:
    """Declare the library of op `name` finished; its builder calls this, holding the lock."""
    folder = cache_dir(accelerator)
    library = folder / name / f"{name}.so"
    with library.open("rb") as file:
        os.fsync(file.fileno())  # or a power cut may leave the stamp beside an empty library
    status = library.stat()
    new = folder / f".{name}.json.{os.getpid()}"
    new.write_text(
        json.dumps(
            {
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "sha256": _sha256(library),
            }
        )
    )
    new.replace(folder / f"{name}.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _key(accelerator: str) -> str:
    packages = {name: metadata.distribution(name) for name in ("torch", "deepspeed")}
    versions = "-".join(f"{name}{package.version}" for name, package in packages.items())
    depends = [
        versions,
        sysconfig.get_config_var("SOABI"),
        _cpu(),
        _gpus() if accelerator == "cuda" else "",
        sys.prefix,
        *(package.locate_file("") for package in packages.values()),
    ]
    short = hashlib.sha256("\n".join(map(str, depends)).encode()).hexdigest()[:10]
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return f"{python}-{versions}-{accelerator}-{short}"


def _cpu() -> str:
    """Model and instruction sets of the first processor, which is what -march=native asks for."""
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part", "isa")
    first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    lines = [line for line in first.splitlines() if line.split("\t", 1)[0].strip() in wanted]
    return "\n".join([platform.machine(), *lines])


def _gpus() -> str:
    """What DeepSpeed compiles CUDA ops for: the list given, or else the models present."""
    models = {
        line.partition(":")[2].strip()
        for information in Path("/proc/driver/nvidia/gpus").glob("*/information")
        for line in information.read_text().splitlines()
        if line.startswith("Model:")
    }
    return "\n".join([os.environ.get("TORCH_CUDA_ARCH_LIST", ""), *sorted(models)])
