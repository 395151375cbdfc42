"""What each rank did, as data: filled by whoever hears from the ranks, judged by `verdict`."""

from __future__ import annotations

import dataclasses
import re
import signal
from pathlib import Path
from typing import Any

#: Error texts that say "a peer went away" and nothing about this rank. gloo and TCPStore, as seen
#: with torch 2.13; NCCL's from its documentation.
_PEER_LOST = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|Connection refused"
    r"|recvValueWithTimeout|Failed to recv, got 0 bytes|remote process exited"
    r"|Socket closed|socket has been closed|connection was closed",
    re.IGNORECASE,
)


#: Who may have sent a SIGKILL that nobody here sent.
UNKNOWN_SIGKILL = (
    "not by pytest-deepspeed; the kernel's OOM killer is the usual sender (dmesg tells)"
)


@dataclasses.dataclass
class Phase:
    """One report of one rank.

    Attributes:
        when: ``"setup"``, ``"call"`` or ``"teardown"``.
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``, as in pytest's report.
        at: `time.monotonic` when the phase ended, before the report was made.
        report: the report as `pytest_report_to_serializable` gives it.
    """

    when: str
    outcome: str
    at: float
    report: dict[str, Any]

    @property
    def xfail(self) -> bool:
        """Failed as its ``xfail`` mark expects, or passed although it does not."""
        return "wasxfail" in self.report or self.strict_xpass

    @property
    def strict_xpass(self) -> bool:
        """Passed under ``xfail(strict=True)``, which pytest reports as a failure."""
        return self.outcome == "failed" and str(self.report.get("longrepr", "")).startswith(
            "[XPASS(strict)]"
        )

    @property
    def message(self) -> str:
        """First line of what went wrong, empty where nothing did."""
        longrepr = self.report.get("longrepr")
        if isinstance(longrepr, dict):
            crash = longrepr.get("reprcrash") or {}
            text = str(crash.get("message", "")).removeprefix("Failed: ")
        elif isinstance(longrepr, (list, tuple)):
            text = str(longrepr[-1]).removeprefix("Skipped: ")
        else:
            text = str(longrepr or "")
        return next((line.strip() for line in text.splitlines() if line.strip()), "")

    @property
    def peer_lost(self) -> bool:
        """Whether the failure only says that a peer went away."""
        longrepr = self.report.get("longrepr")
        if not isinstance(longrepr, dict):
            return bool(_PEER_LOST.search(str(longrepr or "")))
        return bool(_PEER_LOST.search(str((longrepr.get("reprcrash") or {}).get("message", ""))))


@dataclasses.dataclass
class RankResult:
    """All that is known of one rank when its world has ended.

    Attributes:
        rank: global rank.
        node: the name of its node, empty where there is no other.
        lost: why it was lost with its node, or empty.
        pid: process id it had.
        began_at: when its process began, or ``None`` where it did not get ready.
        ready_at: when it was in its process group, or ``None``.
        phases: its reports, in order.
        finished_at: when it said that nothing more is to come, or ``None``.
        exited_at: when its exit was seen.
        status: exit code, negative for a signal (as in `subprocess`); ``None`` if never forked.
        killed: why the harness killed it, or empty.
        stdout, stderr: what it wrote, tail only where it was a flood.
        stack: its Python stack where it was asked for.
        collectives: its last collectives, oldest first.
        note: a hint about its death, such as the OOM killer's counter.
    """

    rank: int
    node: str = ""
    lost: str = ""
    pid: int = 0
    began_at: float | None = None
    ready_at: float | None = None
    phases: list[Phase] = dataclasses.field(default_factory=list)
    finished_at: float | None = None
    exited_at: float | None = None
    status: int | None = None
    killed: str = ""
    stdout: str = ""
    stderr: str = ""
    stack: str = ""
    collectives: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    note: str = ""

    @property
    def label(self) -> str:
        """``1``, or ``1 on n2`` where there are nodes."""
        return f"{self.rank} on {self.node}" if self.node else str(self.rank)

    @property
    def name(self) -> str:
        """``rank 1``, or ``rank 1 on n2``."""
        return f"rank {self.label}"

    def phase(self, when: str) -> Phase | None:
        """The report that decides ``when``: the first failed one, else the last."""
        of = [p for p in self.phases if p.when == when]
        return next((p for p in of if p.outcome == "failed"), of[-1] if of else None)

    @property
    def crashed(self) -> bool:
        """Ended neither by its own report nor by the harness."""
        if self.lost:
            return self.finished_at is None
        if self.killed or self.status is None:
            return False
        return self.finished_at is None or self.status != 0

    @property
    def where(self) -> str:
        """The phase it was in when it was last heard of."""
        done = {p.when for p in self.phases if p.outcome == "passed"}
        return next((w for w in ("setup", "call") if w not in done), "teardown")

    @property
    def ending(self) -> str:
        """How the process ended, in words that follow ``rank 1``."""
        if self.lost:
            return "was lost with its node"
        if self.status is None:
            return "was never started"
        if self.status < 0:
            try:
                name = signal.Signals(-self.status).name
            except ValueError:
                name = f"signal {-self.status}"
            return f"was killed by {name}"
        return f"exited with code {self.status}"


@dataclasses.dataclass
class WorldResult:
    """All that is known of one world when it has ended.

    Attributes:
        ranks: one result for each rank, in rank order.
        hang: which budget ran out (``"start-up"`` or ``"body"``), or empty.
        hang_at: when it ran out.
        budget: its length in seconds.
        queued: seconds that it waited for cores or GPUs.
        waited: seconds that it then waited for agents to serve.
        started_at, ended_at: `time.monotonic` of fork and of the last exit.
        leaks: one sentence for each thing the test left behind.
        values: what a function returned on each rank, still pickled.
        warnings: warnings recorded on ranks, serialized.
        spawned: why the ranks were spawned and not forked, or empty.
        folder: the temporary directory that the ranks shared.
    """

    ranks: list[RankResult]
    hang: str = ""
    hang_at: float = 0.0
    budget: float = 0.0
    queued: float = 0.0
    waited: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    leaks: list[str] = dataclasses.field(default_factory=list)
    values: dict[int, str] = dataclasses.field(default_factory=dict)
    warnings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    spawned: str = ""
    folder: Path = Path()
