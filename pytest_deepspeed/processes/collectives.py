"""Which collective a rank is in, known even when the rank can no longer speak.

Each rank has a page of memory that it shares with its agent. Every collective of every process
group goes through the methods of `torch.distributed.ProcessGroup`; they are wrapped once, in the
agent, and write what they are about to do into the rank's page: group, sequence number, operation,
shape, dtype. So the agent can read it while the rank is blocked in native code, stopped, or dead.
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
from typing import Any

#: Collectives kept for each rank.
HISTORY = 64

_RECORD = 192
_HEADER = struct.Struct("<Q")

#: Methods of `ProcessGroup` that talk to peers.
_OPERATIONS = (
    "allgather",
    "allgather_coalesced",
    "allgather_into_tensor_coalesced",
    "_allgather_base",
    "allreduce",
    "allreduce_coalesced",
    "alltoall",
    "alltoall_base",
    "barrier",
    "broadcast",
    "gather",
    "recv",
    "recv_anysource",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_tensor_coalesced",
    "scatter",
    "send",
)


class Page:
    """The last collectives of one rank, in memory that it shares with its agent.

    Attributes:
        fd: the memory file, by which a rank maps the page that its agent has made.
    """

    def __init__(self, fd: int = -1) -> None:
        size = _HEADER.size + HISTORY * _RECORD
        if fd < 0:
            fd = os.memfd_create("collectives")
            os.ftruncate(fd, size)
        self.fd = fd
        self._map = mmap.mmap(fd, size)

    def write(self, text: str) -> None:
        """Adds one record, by the rank."""
        (count,) = _HEADER.unpack_from(self._map, 0)
        raw = text.encode()[: _RECORD - 1]
        at = _HEADER.size + (count % HISTORY) * _RECORD
        self._map[at : at + _RECORD] = raw.ljust(_RECORD, b"\0")
        _HEADER.pack_into(self._map, 0, count + 1)

    def read(self) -> list[dict[str, Any]]:
        """The records, oldest first, by the agent: ``group``, ``seq``, ``op``, ``what``."""
        (count,) = _HEADER.unpack_from(self._map, 0)
        records = []
        for i in range(max(0, count - HISTORY), count):
            at = _HEADER.size + (i % HISTORY) * _RECORD
            raw = self._map[at : at + _RECORD].rstrip(b"\0").decode(errors="replace")
            group, seq, op, what = raw.split("\t", 3)
            records.append({"group": group, "seq": int(seq), "op": op, "what": what})
        return records

    def close(self) -> None:
        """Gives the memory back."""
        self._map.close()
        os.close(self.fd)


_page: Page | None = None
_sequence: dict[str, int] = {}


def record_to(page: Page) -> None:
    """From now on this process's collectives go to ``page``; called in the rank after its fork."""
    global _page
    _page = page
    _sequence.clear()


def install() -> None:
    """Wraps the methods of `ProcessGroup`, once, where torch is imported already."""
    from torch._C._distributed_c10d import ProcessGroup

    for op in _OPERATIONS:
        original = getattr(ProcessGroup, op, None)
        if original is not None and not hasattr(original, "_pytest_deepspeed"):
            setattr(ProcessGroup, op, _wrap(op, original))


def _wrap(op: str, original: Any) -> Any:
    name = op.strip("_").removesuffix("_base")

    @functools.wraps(original)
    def collective(group: Any, *args: Any, **kwargs: Any) -> Any:
        if _page is not None:
            key = str(getattr(group, "group_name", "")) or "default"
            seq = _sequence[key] = _sequence.get(key, 0) + 1
            _page.write(f"{key}\t{seq}\t{name}\t{_describe(args)}")
        return original(group, *args, **kwargs)

    collective._pytest_deepspeed = True  # type: ignore[attr-defined]
    return collective


def _describe(args: tuple[Any, ...]) -> str:
    """Shape and dtype of the first tensor, and how many there are."""
    tensors = list(_tensors(args))
    if not tensors:
        return ""
    first = tensors[0]
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return f"{tuple(first.shape)} {str(first.dtype).removeprefix('torch.')}{more}"


def _tensors(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        yield value


def divergence(histories: dict[int, list[dict[str, Any]]]) -> str:
    """The first place where the ranks' collectives differ, as one sentence; empty if they agree.

    Args:
        histories: `Page.read` of each rank that is a member of the world.
    """
    groups = sorted({r["group"] for h in histories.values() for r in h})
    for group in groups:
        by_rank = {
            rank: {r["seq"]: r for r in history if r["group"] == group}
            for rank, history in histories.items()
        }
        start = max((min(h) for h in by_rank.values() if h), default=1)
        stop = max((max(h) for h in by_rank.values() if h), default=0)
        for seq in range(start, stop + 1):
            at = {rank: h.get(seq) for rank, h in by_rank.items()}
            if len({(r["op"], r["what"]) if r else None for r in at.values()}) > 1:
                parts = [f"rank {rank} {_phrase(r)}" for rank, r in sorted(at.items())]
                return f"group {group}, collective {seq}: " + "; ".join(parts)
    return ""


def _phrase(record: dict[str, Any] | None) -> str:
    if record is None:
        return "never came"
    return f"is in {record['op']}" + (f" of {record['what']}" if record["what"] else "")
