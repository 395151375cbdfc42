"""From a verdict to the reports that pytest shows: setup, call and teardown of one item."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from _pytest._code.code import (
    ExceptionRepr,
    ReprEntry,
    ReprExceptionInfo,
    ReprFileLocation,
    ReprTraceback,
)

from pytest_deepspeed.processes import collectives
from pytest_deepspeed.values import cost
from pytest_deepspeed.values.outcome import Phase, RankResult, WorldResult
from pytest_deepspeed.values.verdict import Verdict

#: Captured by us from the rank's descriptors; what the rank's own report has of it is a repetition.
_STREAMS = ("Captured stdout", "Captured stderr")


@dataclasses.dataclass
class PhaseReport:
    """What the merged report of one phase says.

    Attributes:
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``.
        longrepr: what is shown of it.
        wasxfail: reason of the ``xfail`` mark, or ``None``.
        duration: seconds.
        sections: captured output.
        user_properties: of the rank that has any.
        reason: one line, for the exception that stands for the ranks in the controller.
        cost: where the seconds went, as numbers, which a report of xdist's takes along.
    """

    outcome: str = "passed"
    longrepr: Any = None
    wasxfail: str | None = None
    duration: float = 0.0
    sections: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    user_properties: list[tuple[str, Any]] = dataclasses.field(default_factory=list)
    reason: str = ""
    cost: tuple[float, ...] = ()

    def apply(self, report: pytest.TestReport) -> None:
        """Writes this over the report that pytest made of the controller's own part."""
        report.outcome = self.outcome  # type: ignore[assignment]
        report.longrepr = self.longrepr
        report.duration = self.duration
        report.sections = [*report.sections, *self.sections]
        report.user_properties = [*report.user_properties, *self.user_properties]
        if self.cost:
            report.ds_cost = list(self.cost)  # type: ignore[attr-defined]
        if hasattr(report, "wasxfail"):
            del report.wasxfail
        if self.wasxfail is not None:
            report.wasxfail = self.wasxfail


def merge(
    item: pytest.Item, result: WorldResult, verdict: Verdict, repeat: str
) -> dict[str, PhaseReport]:
    """The three reports of an item that ran on ranks.

    Args:
        item: the test, or the one that called `ds_run`.
        result: what the ranks did.
        verdict: what that comes to.
        repeat: the command that repeats it, shown with a failure.
    """
    reports = {when: PhaseReport() for when in ("setup", "call", "teardown")}
    spent = cost.of(result)
    reports["setup"].cost = dataclasses.astuple(spent)
    reports["call"].duration, reports["teardown"].duration = spent.body, spent.teardown
    reports["setup"].duration = spent.fork + spent.group + spent.fixtures + spent.end
    decisive = reports[verdict.when]
    decisive.reason = verdict.reason
    decisive.sections = _sections(result, verdict)
    for when in ("call", "teardown"):  # JUnit takes them from the last
        reports[when].user_properties = _properties(result)
    if verdict.failed:
        decisive.outcome = "failed"
        decisive.longrepr = _failure(item, result, verdict, repeat)
    elif verdict.phase is not None and verdict.kind != "pass":
        _take_over(decisive, verdict.phase)
    return reports


def _take_over(report: PhaseReport, phase: Phase) -> None:
    """A skip, an xfail or an xpass, as the rank reported it."""
    report.outcome = phase.outcome
    report.wasxfail = phase.report.get("wasxfail")
    longrepr = phase.report.get("longrepr")
    # JSON has made a list of the (path, line, reason) that pytest's summary of skips takes apart.
    report.longrepr = tuple(longrepr) if isinstance(longrepr, list) else _message_only(longrepr)
    report.reason = phase.message


def _message_only(longrepr: Any) -> Any:
    return longrepr if not isinstance(longrepr, dict) else None


def _properties(result: WorldResult) -> list[tuple[str, Any]]:
    for rank in result.ranks:
        for phase in reversed(rank.phases):
            if found := phase.report.get("user_properties"):
                return [(str(name), value) for name, value in found]
    return []


def _sections(result: WorldResult, verdict: Verdict) -> list[tuple[str, str]]:
    aborted = {r.rank for r in result.ranks if verdict.failed and r.rank != verdict.rank}
    found: list[tuple[str, str]] = []
    for rank in result.ranks:
        for name, text in (("stdout", rank.stdout), ("stderr", rank.stderr)):
            if text:
                found.append((f"Captured {name} [{rank.name}]", text))
        if rank.rank in aborted:
            continue  # what it logged while it broke says nothing about the test
        # A later phase's report repeats the sections of the earlier ones.
        last = rank.phases[-1].report.get("sections", []) if rank.phases else []
        found += [
            (f"{name} [{rank.name}]", text) for name, text in last if not name.startswith(_STREAMS)
        ]
    return found


def _failure(
    item: pytest.Item, result: WorldResult, verdict: Verdict, repeat: str
) -> ExceptionRepr:
    """The first failure as its rank saw it, what became of each rank, and how to repeat it."""
    who = result.ranks[verdict.rank].name if verdict.rank is not None else ""
    longrepr = _longrepr(item, verdict, who)
    for rank in result.ranks:
        if verdict.kind == "hang" or rank.stack:
            longrepr.addsection(f"{rank.name}: {_position(rank)}", _stack(rank), "-")
    for words in {rank.lost.partition("\n")[2] for rank in result.ranks} - {""}:
        longrepr.addsection("node", words, "-")
    lines = list(verdict.fates)
    if verdict.kind == "hang" or (verdict.phase is not None and verdict.phase.peer_lost):
        lines += _divergence(result)
    outside = " outside pytest" * (not repeat.startswith("pytest "))
    lines += ["", f"repeat it{outside}:", repeat]
    longrepr.addsection("ranks", "\n".join(lines), "-")
    return longrepr


def _longrepr(item: pytest.Item, verdict: Verdict, who: str) -> ExceptionRepr:
    phase = verdict.phase if verdict.kind == "fail" else None
    if phase is not None and isinstance(phase.report.get("longrepr"), dict):
        report = item.config.hook.pytest_report_from_serializable(
            config=item.config, data=phase.report
        )
        longrepr: ExceptionRepr = report.longrepr
        if longrepr.reprcrash is not None:
            longrepr.reprcrash.message = f"{who}: {longrepr.reprcrash.message}"
        return longrepr
    text = verdict.reason
    if phase is not None and phase.report.get("longrepr"):
        text = f"{who}: {phase.report['longrepr']}"
    return text_repr(item, text)


def text_repr(item: pytest.Item, text: str) -> ExceptionRepr:
    """A failure that is a text and no traceback."""
    lines = [f"E   {line}" if line else "" for line in text.splitlines()]
    path, line, _ = item.location
    return ReprExceptionInfo(
        reprtraceback=ReprTraceback([ReprEntry(lines, None, None, None, "value")], None, "value"),
        reprcrash=ReprFileLocation(path, (line or 0) + 1, text.splitlines()[0]),
    )


def _position(rank: RankResult) -> str:
    """The collective that a rank is in, or came from."""
    if not rank.collectives:
        return "no collective yet"
    last = rank.collectives[-1]
    what = f" of {last['what']}" if last["what"] else ""
    return f"last collective {last['op']}{what}, number {last['seq']} of group {last['group']}"


def _stack(rank: RankResult) -> str:
    return rank.stack or f"no stack: it had ended ({rank.ending})"


def _divergence(result: WorldResult) -> Sequence[str]:
    if not any(r.collectives for r in result.ranks):
        return []
    text = collectives.divergence({r.rank: r.collectives for r in result.ranks})
    return (
        [f"first divergence: {text}"] if text else ["no divergence: all ranks made the same calls"]
    )
