"""What this machine can run of the matrix, found out without importing torch."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import mmap
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pytest_deepspeed.processes.op_cache import built

#: What to do about a directory that cannot be swapped to.
ELSEWHERE = "give a writable directory on a local disk with --ds-nvme-path"

_SECTOR = 4096  # a multiple of every logical block size that disks have


@dataclasses.dataclass(frozen=True)
class Machine:
    """What decides whether a mode can run here.

    Attributes:
        device: what ranks compute on: ``"cpu"`` or ``"cuda"``.
        no_nvme: why nothing can be offloaded to NVMe, and how to get it; ``None`` where it can.
    """

    device: str
    no_nvme: str | None = None

    @classmethod
    def find(cls, device: str, nvme_path: Path) -> Machine:
        """This machine, swapping to a directory.

        Args:
            device: ``"cpu"`` or ``"cuda"``, as settled by the options.
            nvme_path: where swap files would go; an existing directory.
        """
        problem = not_swappable(nvme_path)
        return cls(device, no_async_io(device) or (problem and f"{problem}: {ELSEWHERE}"))


def not_swappable(path: Path) -> str | None:
    """Why DeepSpeed cannot swap to a directory; ``None`` where it can.

    `async_io` opens its files with ``O_DIRECT``; one is written so, and removed.
    """
    if not path.is_dir():
        return f"{path} is no existing directory"
    try:
        handle, name = tempfile.mkstemp(dir=path, prefix=".o_direct")
    except OSError as error:
        return f"{path} cannot be written ({error.strerror})"
    os.close(handle)
    try:
        direct = os.open(name, os.O_WRONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, _SECTOR) as sector:  # whose memory is aligned, as O_DIRECT wants
                os.write(direct, sector)
        finally:
            os.close(direct)
    except OSError as error:
        if error.errno != errno.EINVAL:
            return f"{path} cannot be written with O_DIRECT ({error.strerror})"
        return f"{path} is on a filesystem without O_DIRECT"
    finally:
        Path(name).unlink()
    return None


def no_async_io(device: str) -> str | None:
    """Why DeepSpeed's op `async_io` cannot run here, and how to get it; ``None`` where it can.

    libaio is loaded and asked for a context, since a sandbox may have its system calls shut off.
    What a build would need is looked at only where the op is not built yet.
    """
    library = None
    for name in ("libaio.so.1", "libaio.so.1t64"):  # Debian's and Ubuntu's from 2024 on
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            break
    if library is None:
        return "DeepSpeed's op async_io needs libaio: apt-get install libaio-dev"
    context = ctypes.c_void_p()
    if failed := library.io_setup(1, ctypes.byref(context)):
        return (
            f"the kernel refuses asynchronous I/O, which DeepSpeed's op async_io needs: io_setup:"
            f" {os.strerror(-failed)}; see /proc/sys/fs/aio-max-nr, or run outside the sandbox"
        )
    library.io_destroy(context)
    if built("async_io", device) is not None:
        return None
    if not any((folder / "libaio.h").is_file() for folder in _include_folders()):
        return "building DeepSpeed's op async_io needs libaio's headers: apt-get install libaio-dev"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "building DeepSpeed's op async_io needs a C++ compiler: apt-get install g++"
    return None


def _include_folders() -> list[Path]:
    given = os.environ.get("CPATH", "").split(os.pathsep)
    usual = ["/usr/include", "/usr/local/include", f"{sys.prefix}/include"]
    return [Path(folder) for folder in [*given, *usual] if folder]
