"""What the campaign has found, kept in a file so that the numbers of several runs add up."""

import collections
import dataclasses
import json
import statistics

import campaign_judge


class Log:
    """A line for each try, and one for each session with what else was wrong in it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "tries.jsonl"

    def lines(self):
        """All of it."""
        text = self._file.read_text() if self._file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def tries(self):
        """The tries alone."""
        return [campaign_judge.Try(**line) for line in self.lines() if "fault" in line]

    def next_seed(self):
        """That of the last round that was begun, since it may have been cut off; 0 at first."""
        sessions = [line for line in self.lines() if line.get("session", "soak") != "soak"]
        return max((line["seed"] for line in sessions), default=0)

    def has(self, kind, seed):
        """Whether a session has been run."""
        return any(line.get("session") == kind and line["seed"] == seed for line in self.lines())

    def add(self, kind, seed, tries, others):
        """A session's."""
        with self._file.open("a") as file:
            for each in tries:
                file.write(json.dumps(dataclasses.asdict(each)) + "\n")
            file.write(json.dumps({"session": kind, "seed": seed, "wrong": others}) + "\n")
        for each in tries:
            for text in (*each.wrong, *(f"left: {left}" for left in each.left)):
                print(f"WRONG {each.fault} (seed {seed}, {each.test}): {text}", flush=True)
        for text in others:
            print(f"WRONG in session {kind} (seed {seed}): {text}", flush=True)


def table(tries, faults):
    """The lines of a Markdown table: a row for each of the faults that was tried."""
    by_fault = collections.defaultdict(list)
    for each in tries:
        by_fault[each.fault].append(each)
    yield "| fault | tries | right | median s | worst s | left behind |"
    yield "|---|---|---|---|---|---|"
    for fault in faults:
        of = by_fault.get(fault.name, [])
        if not of:
            continue
        right = sum(not each.wrong for each in of)
        seconds = [each.seconds for each in of]
        left = sum(len(each.left) for each in of)
        yield (
            f"| {fault.what} | {len(of)} | {right} | {statistics.median(seconds):.1f}"
            f" | {max(seconds):.1f} | {left} |"
        )
    right, left = sum(not t.wrong for t in tries), sum(len(t.left) for t in tries)
    yield f"| all | {len(tries)} | {right} | | | {left} |"
