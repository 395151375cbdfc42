"""Long sessions of victims and controls: whether anything of a session drifts as faults add up.

python tests/faults/campaign soak [--seeds N] [--folder DIR]
"""

import contextlib
import dataclasses
import json
import os
import re
import statistics
import time
from pathlib import Path

import campaign_judge
import campaign_plan
import campaign_sessions as sessions
from campaign_catalogue import RANKS

#: Victims of a session: some ten minutes.
NUMBER = 240

#: Seconds that one may take.
_PATIENCE = 2700.0

#: Without what takes half a minute and more each time.
NAMES = [fault.name for fault in RANKS if fault.every == 1]


@dataclasses.dataclass(frozen=True)
class Drift:
    """One session: how it was in its first quarter, and in its last.

    Attributes:
        seed: of the session.
        victims, right, left: how many faults, right verdicts, and things left.
        controls: seconds of a test that nothing strikes, the medians.
        memory: MiB of pytest's own process, likewise.
        descriptors: open in pytest's own process, likewise.
    """

    seed: int
    victims: int
    right: int
    left: int
    controls: tuple[float, float]
    memory: tuple[float, float]
    descriptors: tuple[float, float]


def run(seed, log):
    """One session, added to the log with its tries."""
    folder = log.folder / "soak"
    plan = campaign_plan.victims(seed, NUMBER, NAMES)
    sessions.write(folder, plan)
    before, seen = sessions.segments(), []
    with sessions.session(folder, *sessions.reports()) as (process, mark):
        ends = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < ends:
            seen += _look(process.pid)
            time.sleep(1)
        ended = sessions.ended(folder, process, mark, before, 1)
    tries, others = campaign_judge.victims(ended, plan, seed)
    log.add("soak", seed, tries, others)
    if not tries:
        return
    controls = [
        test["seconds"] for test in ended.report()["tests"] if "-control]" in test["nodeid"]
    ]
    drift = Drift(
        seed,
        len(tries),
        sum(not each.wrong for each in tries),
        sum(len(each.left) for each in tries),
        _ends(controls),
        _ends([memory for memory, _ in seen]),
        _ends([number for _, number in seen]),
    )
    with _file(log).open("a") as file:
        file.write(json.dumps(dataclasses.asdict(drift)) + "\n")


def _look(pid):
    """MiB and descriptors of a process, if it is still there."""
    with contextlib.suppress(OSError, TypeError):
        status = Path(f"/proc/{pid}/status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
        yield resident, len(os.listdir(f"/proc/{pid}/fd"))


def _ends(values):
    """Medians of the first quarter and of the last."""
    quarter = max(len(values) // 4, 1)
    return statistics.median(values[:quarter]), statistics.median(values[-quarter:])


def _file(log):
    return log.folder / "drift.jsonl"


def next_seed(log):
    """That of the first session that has not been run."""
    return max((drift.seed for drift in drifts(log)), default=999) + 1


def drifts(log):
    """The sessions that have been run."""
    text = _file(log).read_text() if _file(log).exists() else ""
    return [Drift(**json.loads(line)) for line in text.splitlines()]


def table(found):
    """The lines of a Markdown table: a row for each session."""
    yield "| seed | faults | right | left behind | control s | memory MiB | descriptors |"
    yield "|---|---|---|---|---|---|---|"
    for each in found:
        pairs = [
            f"{first:.{digits}f} → {last:.{digits}f}"
            for (first, last), digits in (
                (each.controls, 2),
                (each.memory, 1),
                (each.descriptors, 0),
            )
        ]
        counts = (each.seed, each.victims, each.right, each.left)
        yield "| " + " | ".join([*map(str, counts), *pairs]) + " |"
