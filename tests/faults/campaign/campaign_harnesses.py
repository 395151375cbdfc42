"""The faults of ranks in three harnesses, side by side: this one, DeepSpeed's, and none.

    python tests/faults/campaign harnesses --checkout DIR [--seeds N] [--folder DIR]

Each try is a session of three tests on two ranks, the second of which is struck. It is right where
that one has the right colour, what is shown names the rank and what became of it, the third passes,
and nothing is left but what a session leaves that nothing strikes. All that a session writes to its
terminal is searched, which is generous to a harness that shows what all ranks print.

DeepSpeed's harness is ``tests/unit/common.py`` of a checkout of its repository, under the pytest
that it is pinned to, with 30 seconds for a test. "None" is `torch.multiprocessing.spawn`, which has
no time limit. A session that does not end is killed.
"""

import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import campaign_plan
import campaign_sessions as sessions
from campaign_catalogue import FAILS, PASSES, RANKS, Fault

_BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

#: Seconds that a session may take; DeepSpeed's own limit of a test is 30.
_PATIENCE = 120.0

NAMES = {"ours": "this plugin", "deepspeed": "DeepSpeed's harness", "mp": "torch.multiprocessing"}

#: What must be said of the rank that was struck, in whichever words.
_CAUSES = {
    "sigkill": r"SIGKILL|\W-?9\b",
    "sigsegv": r"SIGSEGV|\W-?11\b",
    "sigterm": r"SIGTERM|\W-?15\b",
    "abort": r"SIGABRT|\W-?6\b",
    "exit_0": r"exit\w*\W*(with )?(code )?0\b",
    "exit_3": r"exit\w*\W*(with )?(code )?3\b",
    "sigstop": r"hang|time\w* ?out|stopped",
    "never_returns": r"hang|time\w* ?out",
    "out_of_memory": r"memory|MemoryError",
    "out_of_group_memory": r"SIGKILL|\W-?9\b",
    "binary_output": r"with binary output",
    "closed_descriptors": r"exit|SIGABRT|[Bb]ad file descriptor",
}

FAULTS = [
    fault
    for fault in RANKS
    if fault.verdict != FAILS or fault.name in _CAUSES
    if not fault.name.startswith("agent_") and fault.name not in ("late", "port_taken")
]


@dataclasses.dataclass(frozen=True)
class Beside:
    """A fault in one harness.

    Attributes:
        harness: a key of `NAMES`.
        fault, seed: as of a `campaign_judge.Try`.
        seconds: of the test that was struck, or of the session where that did not end.
        wrong: what was: ``"colour"``, ``"culprit"``, ``"next test"``.
        left: how many processes, segments and files are left, beyond those of `UNHARMED`.
    """

    harness: str
    fault: str
    seed: int
    seconds: float
    wrong: tuple[str, ...]
    left: int


#: In the place of a fault: a session that nothing strikes.
UNHARMED = Fault("", "nothing", PASSES)


class Harnesses:
    """The three of them, and a file of what was tried."""

    def __init__(self, folder, checkout):
        self.folder, self._checkout = folder, checkout
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "harnesses.jsonl"

    def tries(self):
        """What has been tried so far."""
        text = self._log.read_text() if self._log.exists() else ""
        return [Beside(**json.loads(line)) for line in text.splitlines()]

    def run(self, seed):
        """Each fault once in each of them, but for what has been tried."""
        done = {(each.harness, each.fault, each.seed) for each in self.tries()}
        for fault in (UNHARMED, *FAULTS):
            for name in NAMES:
                if (name, fault.name, seed) in done:
                    continue
                each = self._try(name, fault, seed)
                with self._log.open("a") as log:
                    log.write(json.dumps(dataclasses.asdict(each)) + "\n")
                print(each, flush=True)

    def _try(self, name, fault, seed):
        # The same seed strikes the same rank at the same moment in all.
        if fault is UNHARMED:
            plan = campaign_plan.controls(3)
        else:
            plan = campaign_plan.victims(seed, 1, [fault.name])
            plan[1] |= {"world_size": 2, "rank": plan[1]["rank"] % 2}
        folder = self.folder / f"beside-{name}"
        sessions.write(folder, plan, "campaign_beside.py")
        before = sessions.segments()
        arguments, more = self._how(name, folder)
        with sessions.session(folder, *arguments, more=more) as (process, mark):
            ended = sessions.ended(folder, process, mark, before, _PATIENCE)
        always = max(
            (t.left for t in self.tries() if (t.harness, t.fault) == (name, "")), default=0
        )
        return _judged(name, fault, seed, plan[1]["rank"], ended, always)

    def _how(self, name, folder):
        """Arguments of pytest and its environment."""
        path = [str(_BENCHMARKS)]
        more = {"CAMPAIGN_HARNESS": name, "SUITE_LOG": str(folder / "outcomes")}
        arguments = ["-p", "suite_recorder"]
        if name == "ours":
            return arguments, more | {"PYTHONPATH": path[0]}
        more["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        if name == "deepspeed":
            path += [str(self._pinned()), str(self._checkout / "tests")]
            arguments += ["-p", "conftest"]
            more |= {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "2", "DS_UNITTEST_TIMEOUT": "30"}
        return arguments, more | {"PYTHONPATH": os.pathsep.join(path)}

    def _pinned(self):
        """The pytest that DeepSpeed's harness runs under."""
        pinned = self.folder / "pytest"
        if not pinned.exists():
            pip = [sys.executable, "-m", "pip", "install", "-q", f"--target={pinned}"]
            subprocess.run([*pip, "pytest<8.4"], check=True)
        return pinned


def _judged(name, fault, seed, rank, ended, always):
    found = {}
    log = ended.folder / "outcomes"
    for line in log.read_text().splitlines() if log.exists() else []:
        outcome = json.loads(line)
        found[re.search(r"::(test_(before|victim|after))", outcome["test"])[1]] = outcome
    struck = found.get("test_victim", {"outcome": "ended the session", "seconds": 0.0})
    wrong = []
    if struck["outcome"] != ("failed" if fault.verdict == FAILS else "passed"):
        wrong.append("colour")
    if fault.verdict == FAILS and not _named(fault, rank, ended.output):
        wrong.append("culprit")
    if found.get("test_after", {}).get("outcome") != "passed":
        wrong.append("next test")
    seconds = struck["seconds"] or _PATIENCE
    left = max(0, len(ended.left) - always)
    return Beside(name, fault.name, seed, seconds, tuple(wrong), left)


def _named(fault, rank, output):
    who = re.search(rf"\b(rank|process)\W{{0,3}}{rank}\b", output, re.IGNORECASE)
    return bool(who and re.search(_CAUSES[fault.name], output))


def table(tries):
    """The lines of a Markdown table: a row for each fault."""
    yield "| fault | " + " | ".join(NAMES.values()) + " |"
    yield "|---|---|---|---|"
    for fault in FAULTS:
        cells = [
            _cell([t for t in tries if (t.harness, t.fault) == (n, fault.name)]) for n in NAMES
        ]
        if any(cells):
            yield f"| {fault.what} | " + " | ".join(cells) + " |"
    by = defaultdict(list)
    for each in tries:
        if each.fault:
            by[each.harness].append(each)
    cells = [f"{sum(map(_right, by[name]))} of {len(by[name])}" for name in NAMES]
    yield "| all | " + " | ".join(cells) + " |"


def _right(each):
    return not each.wrong and not each.left


def _cell(tries):
    if not tries:
        return ""
    right = sum(map(_right, tries))
    seconds = statistics.median(each.seconds for each in tries)
    kinds = [
        kind for kind in ("colour", "culprit", "next test") if any(kind in t.wrong for t in tries)
    ]
    left = max(each.left for each in tries)
    kinds += [f"{left} left"] if left else []
    why = f": {', '.join(kinds)}" if kinds else ""
    return f"{right}/{len(tries)}, {seconds:.1f} s{why}"
