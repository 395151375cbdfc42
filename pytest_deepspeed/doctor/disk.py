"""The directory that DeepSpeed would swap to: its filesystem, its speed, what may be locked."""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_deepspeed.training import machine
from pytest_deepspeed.values.checkup import Line
from pytest_deepspeed.values.size import format_size

_BLOCK = 4 * 2**20  # as one of DeepSpeed's larger requests
_MOST = 256 * 2**20
_SECONDS = 0.6  # for writing, and as many for reading

#: Filesystems that are no disk of this node.
_MEMORY = {"tmpfs", "ramfs"}
_SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "afs", "9p", "panfs"}

_CAP_IPC_LOCK = 1 << 14  # capabilities(7)

#: What `PartitionedParamSwapper` locks by default on each rank: buffer_count (5) x buffer_size
#: (1e8) elements of two bytes (runtime/zero/offload_config.py).
_LOCKED = 5 * 10**8 * 2


def lines(path: Path) -> Iterator[Line]:
    """Whether and how fast `path` can be swapped to, and how much memory may be locked for it."""
    elsewhere = "--ds-nvme-path=$SLURM_TMPDIR" if "SLURM_TMPDIR" in os.environ else _ELSEWHERE
    if problem := machine.not_swappable(path):
        yield Line("--", "nvme", problem, elsewhere)
        return
    kind = filesystem(path)
    try:
        written, read = speed(path)
    except OSError as error:
        yield Line("--", "nvme", f"{path} ({kind}) fails: {error.strerror}", elsewhere)
        return
    text = f"{path} ({kind}): writes {written:,.0f} MB/s, reads {read:,.0f} MB/s"
    if kind in _MEMORY:
        yield Line("--", "nvme", f"{text}, and is memory, not a disk", elsewhere)
    elif kind in _SHARED:
        yield Line("--", "nvme", f"{text}, and is shared with other nodes", elsewhere)
    else:
        yield Line("ok", "nvme", text)
    yield _memlock()


_ELSEWHERE = "--ds-nvme-path=DIR, a writable directory on a local disk"


def filesystem(path: Path) -> str:
    """The type of the filesystem that holds `path`, as in ``/proc/self/mounts``: ``"ext4"``."""
    place = path.resolve()
    found = (0, "unknown filesystem")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        folder = Path(mounted.encode().decode("unicode_escape"))  # \040 is a blank
        if place.is_relative_to(folder):
            found = max(found, (len(folder.parts), kind), key=lambda each: each[0])
    return found[1]


def speed(path: Path) -> tuple[float, float]:
    """MB/s (10^6 bytes) at which a file in `path` is written and read with ``O_DIRECT``.

    One request at a time, which is less than a disk can do. It takes little more than a second
    and at most a quarter of what is free; the file has no name while it is there.

    Raises:
        OSError: it cannot be written or read.
    """
    most = min(_MOST, shutil.disk_usage(path).free // 4)
    handle, name = tempfile.mkstemp(dir=path, prefix=".speed")
    os.close(handle)
    try:
        file = os.open(name, os.O_RDWR | os.O_DIRECT)
    finally:
        Path(name).unlink()
    with mmap.mmap(-1, _BLOCK) as block:  # whose memory is aligned, as O_DIRECT wants
        try:
            block.write(os.urandom(_BLOCK))
            written = _rate(lambda: os.write(file, block), most, lambda: os.fdatasync(file))
            size = os.lseek(file, 0, os.SEEK_CUR)
            os.lseek(file, 0, os.SEEK_SET)
            read = _rate(lambda: os.readv(file, [block]), size, lambda: None)
        finally:
            os.close(file)
    return written, read


def _rate(step: Callable[[], int], most: int, end: Callable[[], None]) -> float:
    """MB/s of `step`, repeated until `most` bytes or the time are over; `end` counts as well."""
    began, done = time.perf_counter(), 0
    while done < most and time.perf_counter() - began < _SECONDS:
        done += step()
    end()
    return done / 1e6 / (time.perf_counter() - began)


def _memlock() -> Line:
    """Swap buffers are locked in memory; root may lock what it likes."""
    status = dict(
        line.split(":\t", maxsplit=1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":\t" in line
    )
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return Line("ok", "memlock", "unlimited")
    if int(status["CapEff"], 16) & _CAP_IPC_LOCK:
        return Line("ok", "memlock", f"{format_size(limit)}, which does not bind this user")
    text = f"{format_size(limit)} may be locked; swapping locks"
    default = f"{format_size(_LOCKED)} a rank unless buffer_size is smaller"
    if limit >= _LOCKED:
        return Line("ok", "memlock", f"{text} {default}")
    return Line("--", "memlock", f"{text} {default}", "ulimit -l unlimited (in a job: before srun)")
