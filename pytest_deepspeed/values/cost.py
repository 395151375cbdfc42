"""Where the time of a test on ranks went."""

from __future__ import annotations

import dataclasses

from pytest_deepspeed.values.outcome import WorldResult


@dataclasses.dataclass
class Cost:
    """Wall seconds of a test, in their order; of what ranks do, the slowest rank's.

    Attributes:
        queued: until there was room beside the worlds of xdist's other workers.
        agent: until the agents served: their start, which the first test waits for.
        fork: until the last rank's process began; of a world over nodes, the way there too.
        group: until the process group was formed.
        fixtures: their set-up.
        body: of the test.
        teardown: of the fixtures.
        end: the rest: reports, exits, what was left behind.
    """

    queued: float = 0.0
    agent: float = 0.0
    fork: float = 0.0
    group: float = 0.0
    fixtures: float = 0.0
    body: float = 0.0
    teardown: float = 0.0
    end: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(dataclasses.astuple(self)))


def of(result: WorldResult) -> Cost:
    """What a world cost, from what its ranks said; all `end` where they said nothing."""
    whole = result.ended_at - result.started_at
    began = max((r.began_at or result.started_at for r in result.ranks), default=0.0)
    ready = max((r.ready_at or began for r in result.ranks), default=0.0)
    phases = {
        when: max(
            (p.report.get("duration", 0.0) for r in result.ranks if (p := r.phase(when))),
            default=0.0,
        )
        for when in ("setup", "call", "teardown")
    }
    fork, group = max(0.0, began - result.started_at), max(0.0, ready - began)
    return Cost(
        queued=result.queued,
        agent=result.waited,
        fork=fork,
        group=group,
        fixtures=phases["setup"],
        body=phases["call"],
        teardown=phases["teardown"],
        end=max(0.0, whole - fork - group - sum(phases.values())),
    )
