"""One verdict from what N ranks did.

Only what a rank did before the first failure or deadline votes. Of the votes the worst counts:
crash > fail > hang > divergent skip > xfail or xpass > skip > pass. The failure that is shown is
that of the rank that failed first; what the others did after it is one line each.
"""

from __future__ import annotations

import dataclasses

from pytest_deepspeed.values.outcome import Phase, RankResult, WorldResult

#: A crash is seen a moment after its peers lose their connection to it: within this time (seconds)
#: it is still the cause of a failure that only says "a peer went away".
_CRASH_SEEN_WITHIN = 2.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a test on its world.

    Attributes:
        kind: ``crash``, ``fail``, ``hang``, ``divergent skip``, ``xfail``, ``xpass``, ``skip`` or
            ``pass``.
        when: the phase it belongs to, ``"setup"``, ``"call"`` or ``"teardown"``.
        rank: the rank that decided, or ``None`` where all agree.
        phase: that rank's report, where there is one.
        reason: one line, starting with who did what.
        fates: one line for each rank.
    """

    kind: str
    when: str
    rank: int | None
    phase: Phase | None
    reason: str
    fates: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether the test is red."""
        return self.kind in ("crash", "fail", "hang", "divergent skip")


@dataclasses.dataclass(frozen=True)
class _Vote:
    at: float
    kind: str
    rank: RankResult
    when: str
    phase: Phase | None = None


def judge(world: WorldResult) -> Verdict:
    """Merges what the ranks did into one verdict."""
    if world.hang:
        world = _until_deadline(world)
    votes = sorted((v for r in world.ranks if (v := _vote(r))), key=lambda v: v.at)
    first = _first(votes, world)
    kind, rank, when, phase = _decide(world, first)
    reason = _reason(kind, rank, phase, world)
    fates = tuple(_fate(r, rank, first, world) for r in world.ranks)
    return Verdict(kind, when, rank.rank if rank else None, phase, reason, fates)


def _until_deadline(world: WorldResult) -> WorldResult:
    """Without what ranks did after the deadline: the signal that asks for a stack can wake them."""
    ranks = [
        dataclasses.replace(
            rank,
            phases=[p for p in rank.phases if p.at <= world.hang_at],
            finished_at=rank.finished_at if (rank.finished_at or 0) <= world.hang_at else None,
            killed=rank.killed or ("" if _ended(rank, world.hang_at) else "deadline"),
        )
        for rank in world.ranks
    ]
    return dataclasses.replace(world, ranks=ranks)


def _ended(rank: RankResult, at: float) -> bool:
    return rank.exited_at is not None and rank.exited_at <= at


def _vote(rank: RankResult) -> _Vote | None:
    """The moment that ended the test on this rank, if it was not the end of the body."""
    for phase in rank.phases:
        if phase.xfail and not phase.strict_xpass and phase.outcome == "skipped":
            return _Vote(phase.at, "xfail", rank, phase.when, phase)
        if phase.outcome == "failed" and not phase.strict_xpass:
            return _Vote(phase.at, "fail", rank, phase.when, phase)
    if rank.crashed:
        return _Vote(rank.exited_at or 0.0, "crash", rank, rank.where)
    return None


def _first(votes: list[_Vote], world: WorldResult) -> _Vote | None:
    """The vote that came first, seen through to its cause."""
    if not votes or (world.hang and world.hang_at < votes[0].at):
        return None
    first = votes[0]
    if first.phase is not None and first.phase.peer_lost:
        for other in votes[1:]:
            seen = other.rank.lost or other.at - first.at < _CRASH_SEEN_WITHIN
            if other.kind == "crash" and seen:
                return other
    return first


def _decide(
    world: WorldResult, first: _Vote | None
) -> tuple[str, RankResult | None, str, Phase | None]:
    skips = [
        (r, p) for r in world.ranks for p in r.phases if p.outcome == "skipped" and not p.xfail
    ]
    if first is not None:
        if first.kind == "fail" and skips and first.phase and first.phase.peer_lost:
            rank, phase = skips[0]
            return "divergent skip", rank, phase.when, phase
        return first.kind, first.rank, first.when, first.phase
    if world.hang:
        stuck = [r for r in world.ranks if r.killed] or world.ranks
        when = "setup" if world.hang == "start-up" else stuck[0].where
        return "hang", stuck[0], when, None
    if skips:
        rank, phase = skips[0]
        kind = "skip" if len(skips) == len(world.ranks) else "divergent skip"
        return kind, rank, phase.when, phase
    for rank in world.ranks:
        for phase in rank.phases:
            if phase.xfail:
                return "fail" if phase.strict_xpass else "xpass", rank, phase.when, phase
    unproven = next((r for r in world.ranks if not _proven(r)), None)
    if unproven is not None:
        return "crash", unproven, unproven.where, None
    return "pass", None, "call", world.ranks[0].phase("call")


def _proven(rank: RankResult) -> bool:
    """Whether the rank said that the body ran, ended its report and exited with 0."""
    body = rank.phase("call")
    return body is not None and rank.finished_at is not None and rank.status == 0


def _reason(kind: str, rank: RankResult | None, phase: Phase | None, world: WorldResult) -> str:
    total = len(world.ranks)
    if rank is None:
        return f"{total} ranks passed"
    who = rank.name
    if kind == "hang":
        stuck = [r.label for r in world.ranks if r.killed]
        names = ", ".join(stuck)
        hint = " (--ds-timeout allows more)" * (world.hang == "body")
        return (
            f"hang: {_count(len(stuck), 'rank')} of {total} ({names}) had not ended"
            f" the {world.hang} after {world.budget:g} s{hint}"
        )
    if kind == "crash":
        return f"{who} {_crash(rank)}"
    if kind == "divergent skip":
        others = ", ".join(r.label for r in world.ranks if r is not rank and not _skipped(r))
        skip = phase.message if phase else ""
        return f"{who} skipped ({skip}) and rank {others} did not: all ranks must skip, or none"
    return f"{who}: {phase.message if phase else kind}"


def _crash(rank: RankResult) -> str:
    if rank.lost:
        return f"was lost in {rank.where}: {rank.lost.splitlines()[0]}"
    text = f"{rank.ending} in {rank.where}"
    if rank.status is not None and rank.status >= 0 and rank.finished_at is None:
        text += ", before the test ended (os._exit, or a library that ends the process)"
    return text + (f": {rank.note}" if rank.note else "")


def _skipped(rank: RankResult) -> bool:
    return any(p.outcome == "skipped" and not p.xfail for p in rank.phases)


def _fate(
    rank: RankResult, culprit: RankResult | None, first: _Vote | None, world: WorldResult
) -> str:
    return f"{rank.name}: {_fate_text(rank, culprit, first, world)}"


def _fate_text(
    rank: RankResult, culprit: RankResult | None, first: _Vote | None, world: WorldResult
) -> str:
    vote = _vote(rank)
    if rank.status is None and not rank.lost:
        return "was never started"
    if culprit is not None and rank.rank == culprit.rank and not world.hang:
        if vote is None or vote.kind == "crash":
            return f"{rank.ending} in {rank.where}" if rank.crashed else _last(rank)
        lost = ": it lost the connection to a peer" if vote.phase and vote.phase.peer_lost else ""
        return f"{vote.kind}ed first, in {vote.when}{lost}"
    if world.hang and rank.killed:
        return f"was still in {'start-up' if rank.ready_at is None else rank.where}"
    if rank.killed:
        return f"aborted in {rank.where}: {rank.killed}"
    if vote is not None and first is not None and vote.rank is not first.rank:
        return (
            f"aborted in {vote.when}, {abs(vote.at - first.at) * 1000:.0f} ms later: {_what(vote)}"
        )
    if vote is not None:
        return f"aborted in {vote.when}: {_what(vote)}"
    return _last(rank)


def _what(vote: _Vote) -> str:
    if vote.phase is None:
        return vote.rank.ending
    if vote.phase.peer_lost:
        return "it lost the connection to a peer"
    return vote.phase.message


def _last(rank: RankResult) -> str:
    if _skipped(rank):
        return "skipped"
    body = rank.phase("call")
    if body is not None and body.xfail:
        return "passed, though xfail was expected"
    return "passed" if body is not None else f"ended in {rank.where}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
