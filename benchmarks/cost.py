"""The time of a test on ranks, part by part, as worlds grow: ``python -m benchmarks.cost``.

Expected before anything was measured:

- One fork takes as long as the one before it, so `fork` grows in a straight line with the ranks of
  a node, and with more nodes there are fewer of them on each; 3 to 10 ms a rank.
- In `group` each rank meets each other one, and all share the cores: a straight line where ranks
  are few, a square where they are many.
- `body`, one all-reduce, and `end`, whose exits come one after the other, grow in a straight line.
- A second node costs what its agent takes to be told and to tell, a few milliseconds once, and no
  more with four.

Ranks are more than the cores, so all of it is about a machine that is full, and more than the eight
for each core that the plugin allows a test.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import ranks, sessions
from pytest_deepspeed.values.cost import Cost

SIZES = (1, 2, 4, 8, 16, 32)
AGENTS = (1, 2, 4)

#: Of the first test's wait for its agent nothing is said here.
_PARTS = ("fork", "group", "fixtures", "body", "end")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="tests of each size (default 10)")
    rounds = parser.parse_args().rounds
    print(ranks.machine())
    print("\nmilliseconds, medians; all-reduce in worlds of so many ranks, over so many agents\n")
    print(f"{'agents':>6} {'ranks':>5} " + " ".join(p.rjust(8) for p in _PARTS) + "    total")
    for agents in AGENTS:
        sizes = [size for size in SIZES if size >= agents]
        medians = {size: _median(seen) for size, seen in _costs(agents, sizes, rounds).items()}
        for size, cost in medians.items():
            print(f"{agents:>6} {size:>5} " + " ".join(_ms(cost, p) for p in _PARTS) + _total(cost))
        print("\n".join(_fits(medians)), flush=True)
    print(f"load at the end: {ranks.load()}")


def _costs(agents: int, sizes: Sequence[int], rounds: int) -> dict[int, list[Cost]]:
    """What each test cost, by world size; the first of each is left out, which warms the others."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "costs")
        options = ["-p", "benchmarks.cost_recorder"]
        if agents > 1:
            options += [f"--ds-nodes={agents}", "--ds-launcher=local"]
        sessions.over_nodes(rounds + 1, sizes, *options, COST_LOG=str(log))
        found: dict[int, list[Cost]] = {size: [] for size in sizes}
        for line in log.read_text().splitlines():
            test, cost = json.loads(line)
            name = re.search(r"world_size_(\d+)", test)
            found[int(name[1]) if name else sizes[0]].append(Cost(*cost))
    return {size: costs[1:] for size, costs in found.items()}


def _median(costs: Sequence[Cost]) -> Cost:
    names = [field.name for field in dataclasses.fields(Cost)]
    return Cost(**{n: statistics.median(getattr(cost, n) for cost in costs) for n in names})


def _ms(cost: Cost, part: str) -> str:
    return f"{1000 * getattr(cost, part):8.1f}"


def _total(cost: Cost) -> str:
    return f"{1000 * sum(getattr(cost, part) for part in _PARTS):9.1f}"


def _fits(medians: dict[int, Cost]) -> Iterator[str]:
    """``fork = 5.1 + 3.0 n``: the straight line, or the square where that fits better by half."""
    sizes = np.array(list(medians))
    for part in _PARTS:
        ms = np.array([1000 * getattr(cost, part) for cost in medians.values()])
        line, square = (np.polyfit(sizes, ms, degree) for degree in (1, 2))
        misses = [float(np.sum((np.polyval(fit, sizes) - ms) ** 2)) for fit in (line, square)]
        b, a = line
        text = f"{a:.1f} {b:+.2f} n"
        if len(sizes) > 3 and misses[1] < 0.5 * misses[0]:
            c, b, a = square
            text = f"{a:.1f} {b:+.2f} n {c:+.3f} n^2"
        yield f"       {part:<8} = {text} ms"


if __name__ == "__main__":
    main()
