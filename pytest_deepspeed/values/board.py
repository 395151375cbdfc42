"""Who may compute where: the slots of a machine, and the worlds that wait for some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any


@dataclasses.dataclass
class _Request:
    """A world that waits: whose, for how many slots, and how often a later one came first."""

    owner: str
    count: int
    overtaken: int = 0


class Board:
    """Slots, all or nothing, without starving the large.

    First come, first served, but that what fits may overtake what does not: a world of two takes
    two free GPUs while a world of eight waits for all. It may be overtaken as often as there are
    slots; then it is its turn, and nobody behind it gets any until it has its own.

    Args:
        slots: names of the cores or GPUs, neighbours side by side.
        waiting: requests in the order in which they came.
        held: who has which slots.
    """

    def __init__(
        self,
        slots: Sequence[str],
        waiting: Sequence[dict[str, Any]] = (),
        held: dict[str, list[str]] | None = None,
    ) -> None:
        self._slots = list(slots)
        self._waiting = [_Request(**request) for request in waiting]
        self.held = dict(held or {})

    def ask(self, owner: str, count: int) -> None:
        """Queues a world. One that is larger than the machine has all of it, and runs alone."""
        self._waiting.append(_Request(owner, min(count, len(self._slots))))

    def grant(self, owner: str) -> list[str] | None:
        """The slots of a world that waits; ``None`` where it must go on waiting."""
        position = next(i for i, request in enumerate(self._waiting) if request.owner == owner)
        ahead, request = self._waiting[:position], self._waiting[position]
        taken = {slot for slots in self.held.values() for slot in slots}
        free = [slot for slot in self._slots if slot not in taken]
        if len(free) < request.count or any(self._has_waited(other) for other in ahead):
            return None
        for other in ahead:
            other.overtaken += 1
        del self._waiting[position]
        self.held[owner] = free[: request.count]
        return self.held[owner]

    def _has_waited(self, request: _Request) -> bool:
        return request.overtaken >= len(self._slots)

    def leave(self, owner: str) -> None:
        """Gives back what a world has, or its place in the queue."""
        self.held.pop(owner, None)
        self._waiting = [request for request in self._waiting if request.owner != owner]

    @property
    def owners(self) -> Collection[str]:
        """All that hold or wait."""
        return {*self.held, *(request.owner for request in self._waiting)}

    def as_json(self) -> dict[str, Any]:
        """All but the slots, for another process to go on with."""
        return {"waiting": [dataclasses.asdict(r) for r in self._waiting], "held": self.held}
